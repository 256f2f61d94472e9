"""How cost grows, on tables with measured exponents: python -m benchmarks.scaling [time] [processes] [memory] [input].

time       seconds of training and log_prob, and a step's memory, against batch, width, blocks, side, couplings, one at a time
processes  images/s of `realnvp train` with one process and two, of one thread each, and with one of two threads
memory     peak of a training step with and without --train.recompute, and of sampling, each in a fresh process
input      images/s of the batches that training reads, on one thread
"""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from realnvp.bijections import Chain
from realnvp.config import PRESETS, Config
from realnvp.device import keep_freed_memory
from realnvp.flows.build import build
from realnvp.flows.flow import Flow, StandardNormal
from realnvp.flows.paper import checkerboard_couplings
from realnvp.training.batches import Batches
from realnvp.training.recompute import recompute

BASE = replace(PRESETS["imagenet32"], data=replace(PRESETS["imagenet32"].data, shape=(3, 32, 32)))
BATCH = 32
VARIED: dict[str, Sequence[int]] = {
    "batch": (8, 16, 32, 64),
    "width": (16, 32, 64),
    "blocks": (1, 2, 4, 8),
    "side": (16, 32, 64),
    "couplings": (4, 8, 16),
}


def flow_of(*, width: int = 32, blocks: int = 4, side: int = 32, couplings: int | None = None) -> Flow:
    """imagenet32's flow with one thing changed; couplings: so many checkerboard couplings at one scale instead."""
    model = replace(BASE.model, width=width, num_blocks=blocks, num_scales=int(math.log2(side)) - 1)
    config = Config(data=replace(BASE.data, shape=(3, side, side)), model=model)
    if couplings is None:
        return build(config)
    return Flow(Chain(checkerboard_couplings(model, 3, couplings)), StandardNormal())


def step_of(flow: Flow, x: torch.Tensor) -> Callable[[], None]:
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


def exponent(values: Sequence[int], times: Sequence[float]) -> float:
    """The slope of log time over log value."""
    return float(np.polyfit(np.log(values), np.log(times), 1)[0])


def print_time() -> None:
    """Time of a step and of log_prob for a batch, the memory of a step's tensors, and how they grow."""
    head = ("varied", "values", "training, s a batch", "exponent", "log_prob, s a batch", "exponent", "a step's GiB", "exponent")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for name, values in VARIED.items():
        training, evaluation, memory = [], [], []
        for value in values:
            flow = flow_of(**({} if name == "batch" else {name: value}))
            side = value if name == "side" else 32
            x = torch.rand(value if name == "batch" else BATCH, 3, side, side) * 255
            step = step_of(flow, x)
            training.append(seconds(step))
            memory.append(most_alive(step) / 2**30)
            flow.eval()
            evaluation.append(seconds(torch.no_grad()(lambda flow=flow, x=x: flow.log_prob(x))))
        costs = (training, evaluation, memory)
        cells = [" ".join(f"{cost:.2f}" for cost in each) + f" | {exponent(values, each):.2f}" for each in costs]
        print(f"| {name} | {' '.join(map(str, values))} | {' | '.join(cells)} |", flush=True)


def images_per_second(folder: Path, *, processes: int, threads: int) -> float:
    """Of `realnvp train` at imagenet32's size, the batch shared by the processes; the median of what it logs."""
    run = folder / f"{processes}-{threads}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command = [*launch, "-m", "realnvp", "train", "images"]
    command += ["--data.source", str(folder / "images.npy"), "--run-dir", str(run), "--device", "cpu", "--model.num-scales", "4"]
    command += ["--train.max-steps", "18", "--train.log-every", "3", "--train.batch-size", str(BATCH), "--train.eval-images", "8"]
    command += ["--train.tracker", "none", "--train.moment-batches", "1"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([line["images_per_second"] for line in lines if "images_per_second" in line][1:])


def print_processes() -> None:
    """Two rounds in turns, the better of which counts: what another program takes away only slows down."""
    print("| processes | threads of each | images/s |\n|---|---|---|")
    best: dict[tuple[int, int], float] = {}
    for _ in range(2):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8))
            for processes, threads in ((1, 1), (2, 1), (1, 2)):
                speed = images_per_second(folder, processes=processes, threads=threads)
                best[processes, threads] = max(best.get((processes, threads), 0), speed)
    for (processes, threads), speed in best.items():
        print(f"| {processes} | {threads} | {speed:.1f} |")


class Held(NamedTuple):
    """What a fresh process did."""

    flow: Flow
    step: Callable[[], None] | None = None
    """A training step, where it trained."""


# name -> what a fresh process does; its weights, gradients and Adam's state are told apart from its peak.
MEMORY: dict[str, Callable[[], Held]] = {}
for _couplings in (4, 8, 16):
    for _again in (False, True):

        def _train(couplings: int = _couplings, again: bool = _again) -> Held:
            flow = flow_of(couplings=couplings)
            step = step_of(recompute(flow) if again else flow, torch.randn(64, 3, 32, 32))
            for _ in range(2):
                step()
            return Held(flow, step)

        MEMORY[f"training, {_couplings} couplings{', recompute' if _again else ''}"] = _train


def most_alive(run: Callable[[], None]) -> int:
    """Bytes of tensors at the fullest moment of a call, beyond those from before it: what an allocator keeps does not count."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    return max(accumulate(event["args"]["Bytes"] for event in sorted(events, key=itemgetter("ts"))))


def _sample(count: int, side: int) -> Held:
    flow = build(BASE).eval()
    flow.sample(count, (3, side, side))
    return Held(flow)


MEMORY["sampling 64 images of 32x32"] = lambda: _sample(64, 32)
MEMORY["sampling 10,000 images of 32x32"] = lambda: _sample(10_000, 32)
MEMORY["sampling one image of 640x640"] = lambda: _sample(1, 640)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def print_peak(name: str) -> None:
    """In a fresh process: MiB beyond what it held before and beyond weights, with gradients and Adam's moments in training."""
    keep_freed_memory()  # as the commands do
    before = peak_bytes()
    began = time.perf_counter()
    flow, step = MEMORY[name]()
    spent = time.perf_counter() - began
    weights = sum(parameter.nbytes for parameter in flow.parameters()) * (4 if step else 1)
    rest, alive = peak_bytes() - before - weights, f"{most_alive(step) / 2**20:.0f}" if step else ""
    print(f"| {name} | {weights / 2**20:.0f} | {rest / 2**20:.0f} | {alive} | {spent:.1f} |")


def print_memory() -> None:
    """The table of peaks."""
    head = ("what", "weights (training: 4 times, with gradients and Adam): MiB", "the rest: MiB", "of a step's tensors: MiB", "s")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for name in MEMORY:
        subprocess.run([sys.executable, "-m", "benchmarks.scaling", "peak", name], check=True)


def print_input() -> None:
    """Images a second of `Batches` on one core, which the thread that reads ahead shares."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    images = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    batches = Batches(images, BASE, device=torch.device("cpu"))
    batches.at(0)
    began = time.perf_counter()
    for step in range(1, 201):
        batches.at(step)
    print(f"{200 * BASE.train.batch_size / (time.perf_counter() - began):,.0f} prepared images a second")


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        print_peak(sys.argv[2])
    else:
        tasks = {"time": print_time, "processes": print_processes, "memory": print_memory, "input": print_input}
        for task in sys.argv[1:] or tasks:
            tasks[task]()
