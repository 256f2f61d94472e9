"""How cost grows, on tables with measured exponents: python -m benchmarks.scaling [time] [memory].

time    seconds of training and log_prob, and a step's memory, against batch, width, blocks, side,
        couplings, one at a time
memory  peak of a training step with and without --train.gradient_checkpointing, and of sampling,
        each in a fresh process
"""

import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from realnvp.bijections import Chain
from realnvp.config import PRESETS, Config
from realnvp.device import keep_freed_memory
from realnvp.flows.build import build, checkerboard_couplings
from realnvp.flows.flow import Flow, StandardNormal
from realnvp.training.optim import enable_gradient_checkpointing

BASE = replace(PRESETS["imagenet32"], data=replace(PRESETS["imagenet32"].data, shape=(3, 32, 32)))
BATCH = 32
VARIED: dict[str, Sequence[int]] = {
    "batch": (8, 16, 32, 64),
    "width": (16, 32, 64),
    "blocks": (1, 2, 4, 8),
    "side": (16, 32, 64),
    "couplings": (4, 8, 16),
}
Step = Callable[[], None]


def flow_of(
    *, width: int = 32, blocks: int = 4, side: int = 32, couplings: int | None = None
) -> Flow:
    """imagenet32's flow with one thing changed.

    couplings: so many checkerboard couplings at one scale instead.
    """
    scales = int(math.log2(side)) - 1
    model = replace(BASE.model, width=width, num_blocks=blocks, num_scales=scales)
    if couplings is not None:
        return Flow(Chain(checkerboard_couplings(model, 3, couplings)), StandardNormal())
    return build(Config(data=replace(BASE.data, shape=(3, side, side)), model=model))


def step_of(flow: Flow, x: torch.Tensor) -> Step:
    """A training step on the same images each time."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        (-flow.train().log_prob(x).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(run: Callable[[], object], *, repeats: int = 3) -> float:
    """Median time of a call, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def most_alive(run: Step) -> int:
    """Bytes of new tensors at the fullest moment of a call, without what an allocator keeps."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    with tempfile.NamedTemporaryFile(suffix=".json") as trace:
        profiled.export_chrome_trace(trace.name)
        events = json.loads(Path(trace.name).read_text())["traceEvents"]
    events = sorted((e for e in events if e.get("name") == "[memory]"), key=itemgetter("ts"))
    return max(accumulate(event["args"]["Bytes"] for event in events))


def exponent(values: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log cost over log value."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def print_time() -> None:
    """Print time of a step and of log_prob, memory of a step's tensors, and how they grow."""
    measures = ("training, s a batch", "log_prob, s a batch", "a step's GiB")
    print(f"| varied | values | {' | '.join(f'{name} | exponent' for name in measures)} |")
    print(f"|{'---|' * 8}", flush=True)
    for name, values in VARIED.items():
        costs: tuple[list[float], ...] = ([], [], [])
        for value in values:
            flow = flow_of(**({} if name == "batch" else {name: value}))
            side = value if name == "side" else 32
            x = torch.rand(value if name == "batch" else BATCH, 3, side, side) * 255
            step = step_of(flow, x)
            costs[0].append(seconds(step))
            costs[2].append(most_alive(step) / 2**30)
            costs[1].append(seconds(partial(torch.no_grad()(flow.eval().log_prob), x)))
        cells = [
            f"{' '.join(f'{c:.2f}' for c in each)} | {exponent(values, each):.2f}" for each in costs
        ]
        print(f"| {name} | {' '.join(map(str, values))} | {' | '.join(cells)} |", flush=True)


def trained(couplings: int, again: bool) -> tuple[Flow, Step | None]:
    """A flow of so many couplings after two steps, and its step; again: with recomputation."""
    flow = flow_of(couplings=couplings)
    step = step_of(
        enable_gradient_checkpointing(flow) if again else flow, torch.randn(64, 3, 32, 32)
    )
    step()
    step()
    return flow, step


def sampled(count: int, side: int) -> tuple[Flow, Step | None]:
    """imagenet32's flow after it has drawn so many images."""
    flow = build(BASE).eval()
    flow.sample(count, (3, side, side))
    return flow, None


# What a fresh process does, by name.
MEMORY: dict[str, Callable[[], tuple[Flow, Step | None]]] = {
    f"training, {couplings} couplings{', recompute' if again else ''}": partial(
        trained, couplings, again
    )
    for couplings in (4, 8, 16)
    for again in (False, True)
}
MEMORY |= {
    "sampling 64 images of 32x32": partial(sampled, 64, 32),
    "sampling 10,000 images of 32x32": partial(sampled, 10_000, 32),
    "sampling one image of 640x640": partial(sampled, 1, 640),
}


def peak_bytes() -> int:
    """The most memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def print_peak(name: str) -> None:
    """In a fresh process: print MiB of weights, of the rest, of a step's tensors."""
    keep_freed_memory()  # as the commands do
    before = peak_bytes()
    flow, step = MEMORY[name]()
    weights = sum(p.nbytes for p in flow.parameters()) * (4 if step else 1)
    rest = peak_bytes() - before - weights
    alive = f"{most_alive(step) / 2**20:.0f}" if step else ""
    print(f"| {name} | {weights / 2**20:.0f} | {rest / 2**20:.0f} | {alive} |")


def print_memory() -> None:
    """The table of peaks."""
    print(
        "| what | weights (training: 4 times, with gradients and Adam): MiB | the rest: MiB |",
        end="",
    )
    print(" of a step's tensors: MiB |\n|---|---|---|---|", flush=True)
    for name in MEMORY:
        subprocess.run([sys.executable, "-m", "benchmarks.scaling", "peak", name], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        print_peak(sys.argv[2])
    else:
        tasks = {"time": print_time, "memory": print_memory}
        for task in sys.argv[1:] or tasks:
            tasks[task]()
