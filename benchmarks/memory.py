"""Peak memory of training steps and of sampling: python -m benchmarks.memory.

Training: imagenet32's couplings at one scale, 64 images, with and without gradient checkpointing;
also the seconds of a step. Each case has a fresh process.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from realnvp.bijections import Chain
from realnvp.config.presets import PRESETS
from realnvp.device import keep_freed_memory
from realnvp.flows.build import build, checkerboard_couplings
from realnvp.flows.flow import Flow, StandardNormal
from realnvp.training.optim import enable_gradient_checkpointing

BASE = replace(PRESETS["imagenet32"], data=replace(PRESETS["imagenet32"].data, shape=(3, 32, 32)))
SAMPLES = {"64 of 32x32": (64, 32), "10,000 of 32x32": (10_000, 32), "1 of 640x640": (1, 640)}


def peak_mebibytes() -> float:
    """The most memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def train(couplings: int, checkpointing: bool) -> str:
    """Cells of a training: MiB of a step's tensors at the fullest moment, seconds of a step."""
    chain = Chain(checkerboard_couplings(BASE.model, 3, couplings))
    flow = Flow(chain, StandardNormal())
    flow = enable_gradient_checkpointing(flow) if checkpointing else flow
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-5, fused=True)
    x = torch.randn(64, 3, 32, 32)

    def step() -> float:
        began = time.perf_counter()
        (-flow.train().log_prob(x).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - began

    step()
    seconds = statistics.median(step() for _ in range(3))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    with tempfile.NamedTemporaryFile(suffix=".json") as trace:
        profiled.export_chrome_trace(trace.name)
        events = json.loads(Path(trace.name).read_text())["traceEvents"]
    events = sorted((e for e in events if e.get("name") == "[memory]"), key=itemgetter("ts"))
    tensors = max(accumulate(event["args"]["Bytes"] for event in events)) / 2**20
    return f"{tensors:.0f} | {seconds:.2f}"


def main() -> None:
    """Print the table; with arguments, one row of it."""
    match sys.argv[1:]:
        case ["train", couplings, checkpointing]:
            keep_freed_memory()  # as the commands do
            cells = train(int(couplings), checkpointing == "True")
            name = f"training, {couplings} couplings, checkpointing: {checkpointing}"
            print(f"| {name} | {peak_mebibytes():.0f} | {cells} |")
        case ["sample", name]:
            keep_freed_memory()
            count, side = SAMPLES[name]
            build(BASE).eval().sample(count, (3, side, side))
            print(f"| sampling, {name} | {peak_mebibytes():.0f} | | |")
        case _:
            print("| what | peak, MiB | a step's tensors, MiB | s a step |\n|---|---|---|---|")
            cases = [["train", str(n), str(c)] for n in (4, 8, 16) for c in (False, True)]
            for case in cases + [["sample", name] for name in SAMPLES]:
                command = [sys.executable, "-m", "benchmarks.memory", *case]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
