"""Images/s beside the machine's limit and the public copy: python -m benchmarks.throughput [SIZES].

The limit is the network's convolutions alone, of the same shapes, in the better of two memory
layouts. Tasks take turns, round after round; the tables have medians, with the range over rounds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import realnvp
from benchmarks.public_copy import PublicCopy
from realnvp.config.fields import Config
from realnvp.config.presets import PRESETS
from realnvp.device import keep_freed_memory
from realnvp.flows.build import build
from realnvp.nets.kernels import convolve, packed
from realnvp.training.loop import train_step
from realnvp.training.run import open_run

LAYOUTS = {"channels last": torch.channels_last, "NCHW": torch.contiguous_format}
PRECISIONS = ("float32", "bfloat16")
Task = Callable[[], object]
# Label, task, limit.
ROWS = [
    ("training, float32", "train", "limit of train, float32"),
    ("training, bfloat16 networks", "train, bfloat16", "limit of train, bfloat16"),
    ("log_prob, float32", "log_prob", "limit of log_prob, float32"),
    ("log_prob, fast", "log_prob, fast", "limit of log_prob, bfloat16"),
    ("sample, float32", "sample", "limit of log_prob, float32"),
    ("sample, fast", "sample, fast", "limit of log_prob, bfloat16"),
]


class _Recorded(TorchDispatchMode):
    """Records the shapes of convolutions: inputs, weights, and whether there is a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[torch.Size, torch.Size, bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten.convolution.default:
            self.shapes.append((args[0].shape, args[1].shape, args[2] is not None))
        return func(*args, **(kwargs or {}))


def limits(config: Config, batch: int) -> dict[str, Task]:
    """The convolutions alone: of log_prob (with packed weights, too), and with their gradients."""
    with torch.device("meta"), _Recorded() as recorded, torch.no_grad():
        build(config).eval().log_prob(torch.empty(batch, *config.shape))
    tasks: dict[str, Task] = {}
    for precision in PRECISIONS:
        for layout, memory_format in LAYOUTS.items():
            kind = {"dtype": getattr(torch, precision), "memory_format": memory_format}
            convolutions = [
                (
                    torch.randn(h).to(**kind).requires_grad_(),
                    torch.randn(w).to(**kind).requires_grad_(),
                    torch.zeros(w[0], dtype=kind["dtype"], requires_grad=True) if bias else None,
                )
                for h, w, bias in recorded.shapes
            ]
            name = f"{precision}, {layout}"
            tasks[f"limit of log_prob, {name}"] = lambda c=convolutions: forward(c)
            tasks[f"limit of log_prob, {name}, packed"] = packed_forward(convolutions)
            tasks[f"limit of train, {name}"] = lambda c=convolutions: gradients(c)
    return tasks


Convolutions = list[tuple[Tensor, Tensor, Tensor | None]]


@torch.no_grad()
def forward(convolutions: Convolutions) -> None:
    """All outputs."""
    for h, weight, bias in convolutions:
        F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2)


def packed_forward(convolutions: Convolutions) -> Task:
    """`forward` with weights laid out beforehand, as `realnvp.fast` has them."""
    with torch.no_grad():
        weights = [packed(weight.detach()) for _, weight, _ in convolutions]
        biases = [weight.new_zeros(len(weight)) for _, weight, _ in convolutions]

    @torch.no_grad()
    def run() -> None:
        for (h, _, _), weight, bias in zip(convolutions, weights, biases, strict=True):
            convolve(h, weight, bias)

    return run


def gradients(convolutions: Convolutions) -> None:
    """All outputs and their gradients."""
    for h, weight, bias in convolutions:
        out = F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2)
        torch.autograd.grad(out, [t for t in (h, weight, bias) if t is not None], out.detach())


def training(config: Config, stack: ExitStack, precision: str) -> Task:
    """The step of `realnvp train`, its batch included."""
    folder, (channels, height, width) = (
        Path(stack.enter_context(TemporaryDirectory())),
        config.shape,
    )
    size = (8 * config.train.batch_size, height, width, channels)
    pixels = np.random.default_rng(0).integers(config.levels, size=size, dtype=np.uint8)
    np.save(folder / "images.npy", pixels)
    data = replace(config.data, source=str(folder / "images.npy"))
    config = replace(config, data=data, train=replace(config.train, precision=precision))
    run = stack.enter_context(open_run(config, folder / "run", device="cpu"))

    def step() -> None:
        train_step(run, run.batches.at(run.state.step))
        run.state.step += 1

    return step


def tasks_of(config: Config, stack: ExitStack) -> dict[str, Task]:
    """Everything to time, by name."""
    flow = build(config).eval().requires_grad_(False)
    quick, batch = realnvp.fast(flow), config.train.batch_size
    x = torch.rand(batch, *config.shape) * config.levels
    public = PublicCopy(config)
    optimizer = torch.optim.Adam(public.parameters(), lr=1e-3)

    def train_public() -> None:
        optimizer.zero_grad()
        loss = -public.train().log_prob(x).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(public.parameters(), 100.0)
        optimizer.step()
        loss.item()

    return {
        **limits(config, batch),
        "train": training(config, stack, "float32"),
        "train, bfloat16": training(config, stack, "bfloat16"),
        "log_prob": lambda: flow.log_prob(x),
        "log_prob, fast": lambda: quick.log_prob(x),
        "sample": lambda: flow.sample(batch),
        "sample, fast": lambda: quick.sample(batch),
        "public train": train_public,
        "public log_prob": torch.no_grad()(lambda: public.eval().log_prob(x)),
        "public sample": torch.no_grad()(lambda: public.eval().decode(torch.randn_like(x))),
    }


def measure(config: Config, rounds: int) -> dict[str, list[float]]:
    """Images/s of each task in each round but the first."""
    with ExitStack() as stack:
        tasks = tasks_of(config, stack)
        speeds: dict[str, list[float]] = {name: [] for name in tasks}
        for number in range(rounds + 1):
            for name, task in tasks.items():
                began = time.perf_counter()
                task()
                if number:
                    seconds = time.perf_counter() - began
                    speeds[name].append(config.train.batch_size / seconds)
            print(f"round {number} of {rounds}", file=sys.stderr)
    return speeds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["imagenet32", "cifar10"], help="presets")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as the commands do
    for size in args.sizes:
        preset = PRESETS[size]
        train = replace(preset.train, batch_size=args.batch, tracker="none")
        data = replace(preset.data, set="images")
        speeds = measure(replace(preset, name="images", data=data, train=train), args.rounds)
        median = {name: statistics.median(values) for name, values in speeds.items()}
        print(f"\n| {size}, batch {args.batch} | images/s (range) | of the limit | x public copy |")
        print("|---|---|---|---|")
        for label, task, limit in ROWS:
            best = max(value for name, value in median.items() if name.startswith(limit))
            copy = median[f"public {task.partition(',')[0]}"]
            spread = f"{min(speeds[task]):.1f} to {max(speeds[task]):.1f}"
            cells = f"{median[task] / best:.2f} | {median[task] / copy:.2f}"
            print(f"| {label} | {median[task]:.1f} ({spread}) | {cells} |", flush=True)


if __name__ == "__main__":
    main()
