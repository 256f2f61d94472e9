"""Does a long training lose its inverse? Round trips and checks of a tiny digits flow as it trains.

python -m benchmarks.drift [STEPS]    20,000 when not given; ten rows
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from realnvp.bijections.base import reference_tensor
from realnvp.config.fields import Config
from realnvp.config.presets import PRESETS
from realnvp.data.dataset import dequantize
from realnvp.evaluation.check import check
from realnvp.flows.flow import Flow
from realnvp.io.pretrained import load_flow
from realnvp.random import Purpose, uniform
from realnvp.training.loop import train

IMAGES = 180  # the whole test split


def configured(steps: int, rows: int = 10) -> Config:
    """A flow small enough for many steps, trained as the preset trains."""
    digits = PRESETS["digits"]
    model = replace(digits.model, width=4, num_blocks=1)
    every = dict.fromkeys(("eval_every", "sample_every", "save_every"), max(1, steps // rows))
    every |= {"max_steps": steps, "batch_size": 16, "log_every": 100}
    schedule = replace(digits.train, tracker="none", **every)
    return replace(digits, model=model, train=schedule)


def round_trip(flow: Flow, images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> float:
    """The largest |decode(encode(x)) - x| in gray levels, in the flow's precision; else inf."""
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    noise = uniform(pixels.shape[1:], 0, Purpose.EVALUATE, indices=range(len(pixels)))
    x = dequantize(pixels, noise.to(reference_tensor(flow)))
    with torch.no_grad():
        gap = (flow.decode(flow.encode(x)) - x).abs().max().item()
    return gap if np.isfinite(gap) else float("inf")


def drift(run: Path, steps: int, rows: int = 10) -> Iterator[tuple[int, float, float, float, int]]:
    """Points of one training: step, best validation bits/dim, round trips, failed checks.

    The round trips are in float32 and in float64.
    """
    config = configured(steps, rows)
    for step in range(steps // rows, steps + 1, steps // rows):
        config = replace(config, train=replace(config.train, max_steps=step))
        state = train(config, run, device="cpu")
        images = np.load(run / "data" / "test.npy")[:IMAGES]
        flow = load_flow(run, which="last")
        failed = sum(not entry.ok for entry in check(flow, images[:64].transpose(0, 3, 1, 2)))
        bits = state.best if state.best is not None else float("nan")
        yield state.step, bits, round_trip(flow, images), round_trip(flow.double(), images), failed


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        print("| step | best validation bits/dim | round trip, float32 | float64 | checks failed |")
        print("|---|---|---|---|---|")
        for row in drift(Path(folder), int(sys.argv[1]) if sys.argv[1:] else 20_000):
            print("| {:,} | {:.3f} | {:.1e} | {:.1e} | {} |".format(*row), flush=True)
