"""What a condition costs: a training step with one and without, and a map beside a log-density.

python -m benchmarks.given    about two minutes of one core

Both take turns; CPU seconds, the fastest round of each, since other work only slows down. Prints
two Markdown tables.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import realnvp

ROUNDS = 15
BATCHES = {"digits-modern": 32, "digits": 64, "photos-modern": 16, "photos": 16}


def fastest(*functions: Callable[[], object], calls: int = 1) -> list[float]:
    """Seconds of a call of each."""
    best = [float("inf")] * len(functions)
    for _ in range(ROUNDS):
        for i, function in enumerate(functions):
            began = time.process_time()
            for _ in range(calls):
                function()
            best[i] = min(best[i], (time.process_time() - began) / calls)
    return best


def a_step(flow: realnvp.Flow, *inputs: Tensor) -> Callable[[], None]:
    """Loss and gradient."""
    flow.train()

    def step() -> None:
        (-flow.log_prob(*inputs).mean()).backward()
        flow.zero_grad()

    return step


def of_images(preset: str, batch: int) -> list[float]:
    """Without and with one of ten classes."""
    config = realnvp.PRESETS[preset]
    names = tuple("0123456789")
    classes = replace(config, data=replace(config.data, classes=True, class_names=names))
    x = torch.rand(batch, *config.shape) * (config.levels - 1)
    plain, given = realnvp.build(config), realnvp.build(classes)
    return fastest(a_step(plain, x), a_step(given, x, torch.arange(batch) % 10), calls=2)


def of_vectors() -> list[float]:
    """Six columns, without and with three given columns."""
    x, c = torch.randn(512, 6), torch.randn(512, 3)
    plain, given = realnvp.vector_flow(6), realnvp.vector_flow(6, given=3)
    return fastest(a_step(plain, x), a_step(given, x, c), calls=4)


def of_a_map() -> list[float]:
    """log_prob and log_prob_map of one grey image of 512x512."""
    config = realnvp.PRESETS["images-modern"]
    model = replace(config.model, num_scales=3, num_couplings=6)
    data = replace(config.data, shape=(1, 512, 512))
    flow = realnvp.build(replace(config, data=data, model=model)).eval()
    x = 256 * torch.rand(1, 1, 512, 512)
    with torch.no_grad():
        return fastest(lambda: flow.log_prob(x), lambda: flow.log_prob_map(x))


def line(name: str, before: float, after: float) -> str:
    """A row of a table."""
    return f"| {name} | {1e3 * before:.2f} | {1e3 * after:.2f} | {after / before:.3f} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| step of | ms | given c, ms | ratio |\n|---|---|---|---|")
    for preset, batch in BATCHES.items():
        print(line(f"{preset}, {batch} images", *of_images(preset, batch)), flush=True)
    print(line("vectors of 6, 512 rows", *of_vectors()))
    print("\n| 512x512, grey | log_prob, ms | log_prob_map, ms | ratio |\n|---|---|---|---|")
    print(line("images-modern, 3 scales, 6 couplings", *of_a_map()))
