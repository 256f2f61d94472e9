"""What `benchmarks.throughput` times: this project, the stand-in for the public copy, the limit."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

import realnvp
from benchmarks import limit
from benchmarks.public_copy import PublicCopy
from realnvp.config import PRESETS, Config
from realnvp.device import keep_freed_memory
from realnvp.flows.build import build
from realnvp.training.loop import train_step
from realnvp.training.run import open_run


@dataclass(frozen=True)
class Case:
    """One thing to time."""

    task: str
    """train, log_prob, sample ..."""
    run: Callable[[], object]
    images: int


def sized(name: str, *, batch: int) -> Config:
    """A preset's architecture, on any images."""
    config = PRESETS[name]
    train = replace(config.train, batch_size=batch, tracker="none")
    return replace(config, name="images", data=replace(config.data, set="images"), train=train)


def limits(config: Config, stack: ExitStack, *, precision: str, layout: str) -> list[Case]:
    """The convolutions alone."""
    batch = config.train.batch_size
    alone = partial(limit.convolutions, config, dtype=getattr(torch, precision), layout=layout)
    convs, of_one = alone(batch), alone(1)
    return [
        Case("train", limit.training(convs), batch),
        Case("log_prob", limit.forward(convs), batch),
        Case("log_prob, packed", limit.packed_forward(convs), batch),
        Case("log_prob, batch 1, packed", limit.packed_forward(of_one), 1),
    ]


def training(config: Config, stack: ExitStack, *, precision: str) -> list[Case]:
    """The step of `realnvp train`, its batch included: what users wait for."""
    folder, batch = Path(stack.enter_context(TemporaryDirectory())), config.train.batch_size
    channels, height, width = config.data.shape or (3, 32, 32)
    size = (8 * batch, height, width, channels)
    images = np.random.default_rng(0).integers(0, config.data.levels or 256, size, dtype=np.uint8)
    np.save(folder / "images.npy", images)
    config = replace(config, data=replace(config.data, source=str(folder / "images.npy")))
    config = replace(config, train=replace(config.train, precision=precision))
    run = stack.enter_context(open_run(config, folder / "run", device="cpu"))

    def step() -> None:
        train_step(run, run.batches.at(run.state.step))
        run.state.step += 1

    return [Case("train", step, batch)]


def using(config: Config, stack: ExitStack, *, fast: bool) -> list[Case]:
    """log_prob and sample of the flow as it is, or of `realnvp.fast`."""
    flow = build(config).eval()
    flow = realnvp.fast(flow) if fast else flow
    x = torch.rand(config.train.batch_size, *config.data.shape or ()) * (config.data.levels or 256)
    log_prob = torch.no_grad()(flow.log_prob)
    return at_both_batches(lambda count: log_prob(x[:count]), flow.sample, len(x))


def at_both_batches(
    log_prob: Callable[[int], object], sample: Callable[[int], object], batch: int
) -> list[Case]:
    """The cases of two functions of a number of images: a batch of them, and one."""
    tasks = {"log_prob": log_prob, "sample": sample}
    counts = {"": batch, ", batch 1": 1}
    pairs = [(task, at) for at in counts for task in tasks]
    return [Case(task + at, partial(tasks[task], counts[at]), counts[at]) for task, at in pairs]


def public_copy(config: Config, stack: ExitStack, *, low: bool) -> list[Case]:
    """The tasks of the stand-in, written as its users write them; low: under bf16 autocast."""
    model = PublicCopy(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.rand(config.train.batch_size, *config.data.shape or ()) * (config.data.levels or 256)
    cast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=low)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        with cast():
            loss = -model.log_prob(x).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        loss.item()

    @torch.no_grad()
    def log_prob(count: int) -> None:
        model.eval()
        with cast():
            model.log_prob(x[:count])

    @torch.no_grad()
    def sample(count: int) -> None:
        model.eval()
        with cast():
            model.decode(torch.randn_like(x[:count]))

    return [Case("train", step, len(x)), *at_both_batches(log_prob, sample, len(x))]


PRECISIONS = ("float32", "bfloat16")
CONTESTANTS: dict[str, Callable[[Config, ExitStack], list[Case]]] = {
    f"limit {precision}, {layout}": partial(limits, precision=precision, layout=layout)
    for precision in PRECISIONS
    for layout in limit.FORMATS
} | {
    "training float32": partial(training, precision="float32"),
    "training bfloat16": partial(training, precision="bfloat16"),
    "as it is": partial(using, fast=False),
    "fast": partial(using, fast=True),
    "public copy": partial(public_copy, low=False),
    "public copy, autocast": partial(public_copy, low=True),
}


class Process:
    """A contestant in a process of its own, with its own memory; it works only while called."""

    def __init__(self, who: str, config: Config, threads: int) -> None:
        spawn = get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        spawn.Process(target=_serve, args=(theirs, who, config, threads), daemon=True).start()
        theirs.close()  # so that the end of the other process is the end of the pipe
        self.tasks: dict[str, int] = self.pipe.recv()

    def seconds(self, task: str) -> float:
        """The time of one call."""
        self.pipe.send(task)
        return float(self.pipe.recv())

    def end(self) -> None:
        """Let the process end."""
        self.pipe.send(None)


def _serve(pipe: Any, who: str, config: Config, threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()  # as the commands do; for all alike
    with ExitStack() as stack:
        cases = {case.task: case for case in CONTESTANTS[who](config, stack)}
        pipe.send({task: case.images for task, case in cases.items()})
        while task := pipe.recv():
            began = time.perf_counter()
            cases[task].run()
            pipe.send(time.perf_counter() - began)
