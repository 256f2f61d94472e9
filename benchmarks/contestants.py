"""What `benchmarks.throughput` times: this project, the stand-in for the public copy, and the limit, as functions to call."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import realnvp
from benchmarks import limit
from benchmarks.public_copy import PublicCopy
from realnvp.config import PRESETS, Config
from realnvp.models import build
from realnvp.train import start, train_step


@dataclass(frozen=True)
class Case:
    """One thing to time."""

    task: str
    """train, log_prob, sample ..."""
    who: str
    run: Callable[[], object]
    images: int


def sized(name: str, *, batch: int, precision: str = "float32", **train: object) -> Config:
    """A preset's architecture on any images."""
    config = PRESETS[name]
    settings = replace(config.train, batch_size=batch, precision=precision, tracker="none", **train)  # type: ignore[arg-type]
    return replace(config, name="images", data=replace(config.data, set="images"), train=settings)


@contextmanager
def cases(config: Config, *, batch: int, peers: dict[str, Callable[[Config], nn.Module]]) -> Iterator[list[Case]]:
    """All cases at one size, ready to be called in any order."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield [
            *(case for precision in ("float32", "bfloat16") for case in limits(config, batch, precision)),
            training(config, batch, "float32", folder, stack),
            training(config, batch, "bfloat16", folder, stack),
            *ours(config, batch),
            *(
                case
                for name, make in ({"public copy": PublicCopy} | peers).items()
                for case in peer(name, make(config), config, batch)
            ),
        ]


def limits(config: Config, batch: int, precision: str) -> Iterator[Case]:
    """The convolutions alone, in each layout; the quicker one is the limit."""
    for layout in limit.FORMATS:
        convs = limit.convolutions(config, batch, dtype=getattr(torch, precision), layout=layout)
        yield Case("train", f"limit {precision}, {layout}", limit.training(convs), batch)
        yield Case("log_prob", f"limit {precision}, {layout}", limit.forward(convs), batch)


def training(config: Config, batch: int, precision: str, folder: Path, stack: ExitStack, **train: object) -> Case:
    """The step of `realnvp train`, its batch included: what users wait for."""
    source = folder / "images.npy"
    if not source.exists():
        channels, height, width = config.data.shape or (3, 32, 32)
        np.save(source, np.random.default_rng(0).integers(0, 256, (8 * batch, height, width, channels), dtype=np.uint8))
    train_config = replace(config.train, precision=precision, **train)  # type: ignore[arg-type]
    config = replace(config, data=replace(config.data, source=str(source)), train=train_config)
    run = start(config, folder / f"{precision}-{len(train)}", device="cpu", init_from=None, stack=stack)

    def step() -> None:
        train_step(run, run.batches.at(run.state.step), stop=[])
        run.state.step += 1

    return Case("train", f"realnvp {precision}", step, batch)


def ours(config: Config, batch: int) -> Iterator[Case]:
    """log_prob and sample of the flow as it is, and of `realnvp.fast`."""
    flow = build(config).eval()
    quick = realnvp.fast(flow)
    x = torch.rand(batch, *config.data.shape or ()) * 255
    for name, model in (("realnvp float32", flow), ("realnvp fast", quick)):
        for count in (batch, 1):
            tasks = ("log_prob", "sample") if count > 1 else ("log_prob, batch 1", "sample, batch 1")
            yield Case(tasks[0], name, partial(torch.no_grad()(model.log_prob), x[:count]), count)
            yield Case(tasks[1], name, partial(model.sample, count), count)


def peer(name: str, model: nn.Module, config: Config, batch: int) -> Iterator[Case]:
    """The same tasks of another implementation, written as its users write them."""
    shape = config.data.shape or ()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, z = torch.rand(batch, *shape) * 255, torch.randn(batch, *shape)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        loss = -model.log_prob(x).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        loss.item()

    @torch.no_grad()
    def log_prob(count: int) -> None:
        model.eval().log_prob(x[:count])

    @torch.no_grad()
    def sample(count: int) -> None:
        model.eval().decode(z[:count])

    yield Case("train", name, step, batch)
    for count in (batch, 1):
        yield Case("log_prob" if count > 1 else "log_prob, batch 1", name, partial(log_prob, count), count)
        yield Case("sample" if count > 1 else "sample, batch 1", name, partial(sample, count), count)
