"""What a condition costs: a training step with one and without, and a map beside a log-density.

python -m benchmarks.given                 about five minutes of one core
python -m benchmarks.given digits vectors  these steps alone

Both take turns; CPU seconds of this thread, medians over all rounds, of the ratio, too. Prints two
Markdown tables. `training` is the step of `realnvp train digits-modern`, its batch and its
optimisers included; the others are loss and gradient.
"""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import realnvp
from realnvp.config import Config
from realnvp.device import full_precision, keep_freed_memory
from realnvp.training.loop import train_step
from realnvp.training.run import open_run

ROUNDS = 200
BATCHES = {"digits-modern": 32, "digits": 64, "photos-modern": 16, "photos": 16}
DIGITS = tuple("0123456789")
Step = Callable[[], object]


def measured(first: Step, second: Step) -> tuple[float, float, float]:
    """Seconds of a call of each, and what the second takes of the first."""
    rounds = []
    for _ in range(ROUNDS):
        seconds = []
        for function in (first, second):
            began = time.thread_time()
            function()
            seconds.append(time.thread_time() - began)
        rounds.append((*seconds, seconds[1] / seconds[0]))
    before, after, ratio = (median(column) for column in zip(*rounds[5:], strict=True))
    return before, after, ratio


def a_step(flow: realnvp.Flow, *inputs: Tensor) -> Step:
    """Loss and gradient."""
    flow.train()

    def step() -> None:
        (-flow.log_prob(*inputs).mean()).backward()
        flow.zero_grad()

    return step


def of_images(preset: str, batch: int) -> tuple[Step, Step]:
    """Without and with one of ten classes."""
    config = realnvp.PRESETS[preset]
    classes = replace(config, data=replace(config.data, classes=True, class_names=DIGITS))
    x = torch.rand(batch, *config.shape) * (config.levels - 1)
    plain, context = realnvp.build(config), realnvp.build(classes)
    return a_step(plain, x), a_step(context, x, torch.arange(batch) % 10)


def of_vectors() -> tuple[Step, Step]:
    """Six columns, without and with three given columns."""
    x, c = torch.randn(512, 6), torch.randn(512, 3)
    plain, context = realnvp.vector_flow(6), realnvp.vector_flow(6, context=3)
    return a_step(plain, x), a_step(context, x, c)


def of_training(stack: ExitStack, precision: str) -> tuple[Step, Step]:
    """Without and with the digit as class."""
    config = realnvp.PRESETS["digits-modern"]
    config = replace(config, train=replace(config.train, precision=precision, tracker="none"))
    classes = replace(config, data=replace(config.data, classes=True))
    return _training(stack, config), _training(stack, classes)


def _training(stack: ExitStack, config: Config) -> Step:
    folder = Path(stack.enter_context(TemporaryDirectory()))
    run = stack.enter_context(open_run(config, folder / "run", device="cpu"))

    def step() -> None:
        train_step(run, run.batches.at(run.state.step))
        run.state.step += 1

    return step


def of_a_map() -> tuple[Step, Step]:
    """log_prob and log_prob_map of one grey image of 512x512."""
    config = realnvp.PRESETS["images-modern"]
    model = replace(config.model, num_scales=3, num_couplings=6)
    data = replace(config.data, shape=(1, 512, 512))
    flow = realnvp.build(replace(config, data=data, model=model)).eval().requires_grad_(False)
    x = 256 * torch.rand(1, 1, 512, 512)
    return lambda: flow.log_prob(x), lambda: flow.pixel_log_prob(x)


def line(name: str, steps: tuple[Step, Step]) -> None:
    """Print a row of a table."""
    before, after, ratio = measured(*steps)
    print(f"| {name} | {1e3 * before:.2f} | {1e3 * after:.2f} | {ratio:.3f} |", flush=True)


def main(chosen: list[str]) -> None:
    """Print the tables, or the chosen lines of the first."""
    print("| step of | ms | given c, ms | ratio |\n|---|---|---|---|")
    for preset, batch in BATCHES.items():
        if preset in chosen or not chosen:
            line(f"{preset}, {batch} images", of_images(preset, batch))
    if "vectors" in chosen or not chosen:
        line("vectors of 6, 512 rows", of_vectors())
    if "training" in chosen or not chosen:
        for precision in ("float32", "bfloat16"):
            with ExitStack() as stack:
                stack.enter_context(full_precision())
                line(f"training digits-modern, {precision}", of_training(stack, precision))
    if not chosen:
        print("\n| 512x512, grey | log_prob, ms | log_prob_map, ms | ratio |\n|---|---|---|---|")
        line("images-modern, 3 scales, 6 couplings", of_a_map())


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()  # as the commands do
    main(sys.argv[1:])
