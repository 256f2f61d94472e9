"""Distance of a trained flow to a known density: python -m benchmarks.known_entropy [--help].

KL(truth, flow) is the mean of log p(x) - log q(x) over fresh samples x of a distribution whose
density p is known. The flow is trained as `realnvp train table` does on a file of samples, at the
best of some deviations of its sines. Time is CPU time of one thread, evaluations included.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from realnvp import load_flow
from realnvp.config.fields import Config
from realnvp.config.presets import PRESETS
from realnvp.evaluation.likelihood import log_probs
from realnvp.training.loop import train

Array = NDArray[np.float64]
Measured = tuple[float, float, float]
"""KL in nats, its standard error, and seconds of training."""
FRESH = 500_000


class Known(NamedTuple):
    """A distribution of vectors."""

    sample: Callable[[int, np.random.Generator], Array]
    log_prob: Callable[[Array], Array]
    """Nats."""
    entropy: float


def mixture(centers: Array, deviation: float, entropy: float) -> Known:
    """The mean of N(center, deviation^2 I) over the centers."""

    def sample(n: int, rng: np.random.Generator) -> Array:
        chosen = centers[rng.integers(len(centers), size=n)]
        return chosen + deviation * rng.standard_normal(chosen.shape)

    def log_prob(x: Array) -> Array:
        parts = []
        for rows in np.array_split(x, -(-len(x) // 1000)):
            squares = (rows**2).sum(1)[:, None] - 2 * rows @ centers.T + (centers**2).sum(1)
            exponents = -squares / (2 * deviation**2)
            parts.append(np.logaddexp.reduce(exponents, axis=1) - math.log(len(centers)))
        return np.concatenate(parts) - x.shape[1] / 2 * math.log(2 * math.pi * deviation**2)

    return Known(sample, log_prob, entropy)


def eight_gaussians() -> Known:
    """On a circle of radius 2, deviation .2."""
    t = np.arange(8) * math.pi / 4
    return mixture(2 * np.stack([np.cos(t), np.sin(t)], 1), 0.2, 1.6981)


def two_moons() -> Known:
    """Arcs (cos t, sin t) and (1 - cos t, .5 - sin t), t in [0, pi], with noise of .1.

    Each arc is 2,000 points, .016 noise apart.
    """
    t = (np.arange(2000) + 0.5) / 2000 * math.pi
    upper, lower = np.array([np.cos(t), np.sin(t)]), np.array([1 - np.cos(t), 0.5 - np.sin(t)])
    return mixture(np.concatenate([upper, lower], 1).T, 0.1, 1.0076)


def checkerboard() -> Known:
    """Uniform on eight unit squares of a 4x4 board."""

    def sample(n: int, rng: np.random.Generator) -> Array:
        column = rng.integers(4, size=n)
        row = 2 * rng.integers(2, size=n) + column % 2
        return np.stack([column, row], 1) - 2 + rng.random((n, 2))

    def log_prob(x: Array) -> Array:
        column, row = np.floor(x).T
        return np.where((abs(x) <= 2).all(1) & ((column + row) % 2 == 0), -math.log(8), -np.inf)

    return Known(sample, log_prob, math.log(8))


def banana() -> Known:
    """x2 ~ N(0, 4), x1 ~ N(x2^2 / 4, 1)."""

    def sample(n: int, rng: np.random.Generator) -> Array:
        b = 2 * rng.standard_normal(n)
        return np.stack([b**2 / 4 + rng.standard_normal(n), b], 1)

    def log_prob(x: Array) -> Array:
        a, b = x.T
        return -0.5 * (b**2 / 4 + (a - b**2 / 4) ** 2) - math.log(4 * math.pi)

    return Known(sample, log_prob, 1 + math.log(4 * math.pi))


KNOWN: dict[str, Callable[[], Known]] = {
    "banana": banana,
    "two moons": two_moons,
    "8 Gaussians": eight_gaussians,
    "checkerboard": checkerboard,
}


def measure(known: Known, rows: Array, config: Config) -> Measured:
    """Train on the rows, and measure."""
    with tempfile.TemporaryDirectory() as folder:
        source, run = Path(folder, "rows.npy"), Path(folder, "run")
        np.save(source, rows)
        began = time.process_time()
        train(replace(config, data=replace(config.data, source=str(source))), run, device="cpu")
        seconds = time.process_time() - began
        flow = load_flow(run)
    x = known.sample(FRESH, np.random.default_rng([config.seed, 1]))
    gaps = known.log_prob(x) - log_probs(flow, x).numpy()
    return float(gaps.mean()), float(gaps.std() / math.sqrt(FRESH)), seconds


def main() -> None:
    """Measure and print."""
    table = PRESETS["table"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", choices=[[], *KNOWN], help="default: all")
    parser.add_argument("--sine-std", nargs="+", type=float, default=[6.0, 0.0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="a fifth is held out")
    parser.add_argument("--steps", type=int, default=table.train.max_steps)
    args = parser.parse_args()
    torch.set_num_threads(1)
    schedule = replace(table.train, max_steps=args.steps, tracker="none")
    print("| set | entropy | KL to the truth, nats | CPU s |\n|---|---|---|---|")
    for name in args.sets or KNOWN:
        known = KNOWN[name]()
        rows = known.sample(args.rows, np.random.default_rng([0, 0]))
        models = [replace(table.model, sine_std=sine_std) for sine_std in args.sine_std]
        configs = [replace(table, train=schedule, model=model) for model in models]
        kl, error, seconds = min(measure(known, rows, config) for config in configs)
        cells = f"{known.entropy:.4f} | {kl:.5f} +- {error:.5f} | {seconds:.0f}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
