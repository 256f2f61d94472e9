"""How far from the truth: Gaussian random fields, whose density is known, as images.

python -m benchmarks.random_fields --side 8 --minutes 5 --preset images-modern

Grey fields with covariance 40^2 (exp(-d / 4) + 1e-3 [d = 0]) at distance d, around 127.5, rounded to 8 bits. The regret is the
flow's bits/dim (a bound, by uniform dequantisation) less the truth's, on the same images: what is common to both cancels. Minutes
are CPU time of one thread.
"""

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.budget import trained
from realnvp.config import PRESETS
from realnvp.evaluation.likelihood import bits_per_dim

MEAN, DEVIATION, REACH, NUGGET = 127.5, 40.0, 4.0, 1e-3


def covariance(side: int) -> NDArray[np.float64]:
    """(side^2, side^2)."""
    rows, columns = np.divmod(np.arange(side * side), side)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return DEVIATION**2 * (np.exp(-distance / REACH) + NUGGET * np.eye(side * side))


def fields(count: int, side: int, seed: int) -> NDArray[np.uint8]:
    """(count, side, side, 1)."""
    root = np.linalg.cholesky(covariance(side))
    draws = MEAN + np.random.default_rng(seed).standard_normal((count, side * side)) @ root.T
    return np.clip(np.rint(draws), 0, 255).astype(np.uint8).reshape(count, side, side, 1)


def true_bits_per_dim(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N,), of each field: its density is flat over the width of a grey level."""
    side = images.shape[1]
    root = np.linalg.cholesky(covariance(side))
    whitened = np.linalg.solve(root, (images.reshape(len(images), -1) - MEAN).T)
    nats = 0.5 * (whitened**2).sum(0) + np.log(np.diag(root)).sum() + 0.5 * side * side * math.log(2 * math.pi)
    result: NDArray[np.float64] = nats / (side * side * math.log(2))
    return result


def main() -> None:
    """Train on fields, and print the regret."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--preset", default="images-modern")
    parser.add_argument("--count", type=int, default=50_000, help="training fields")
    parser.add_argument("--width", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for split, count, seed in (("train", args.count, 1), ("valid", 500, 2), ("test", 4000, 3)):
            np.save(Path(folder, f"{split}.npy"), fields(count, args.side, seed + 10 * args.seed))
        images = np.load(Path(folder, "test.npy"))
        config = PRESETS[args.preset]
        model = replace(config.model, width=args.width or config.model.width)
        config = replace(config, data=replace(config.data, source=folder), model=model, seed=args.seed)
        flow, steps, _ = trained(config, args.minutes)
    bits = bits_per_dim(flow, images.transpose(0, 3, 1, 2)).per_image.numpy()
    truth = true_bits_per_dim(images)
    regret = bits - truth
    error = regret.std() / math.sqrt(len(regret))
    print(f"{args.preset}, {args.side}x{args.side}, {args.minutes:g} minutes, {steps} steps")
    print(f"flow {bits.mean():.4f}, truth {truth.mean():.4f}, regret {regret.mean():.4f} +- {error:.4f} bits/dim")


if __name__ == "__main__":
    main()
