"""Distributions whose density is known, so that a flow's distance to the truth is, too."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Known(NamedTuple):
    """A distribution of vectors."""

    sample: Callable[[int, np.random.Generator], Array]
    log_prob: Callable[[Array], Array]
    """Nats."""
    entropy: float


def log_mixture(x: Array, centres: Array, deviation: float) -> Array:
    """log of the mean of N(centre, deviation^2 I) over the centres, at each row of x."""
    found = []
    for rows in np.array_split(x, -(-len(x) // 1000)):
        squares = (rows**2).sum(1)[:, None] - 2 * rows @ centres.T + (centres**2).sum(1)
        exponents = -squares / (2 * deviation**2)
        largest = exponents.max(1)
        found.append(largest + np.log(np.exp(exponents - largest[:, None]).mean(1)))
    return np.concatenate(found) - x.shape[1] / 2 * math.log(2 * math.pi * deviation**2)


def noisy(centres: Array, deviation: float, entropy: float) -> Known:
    """Centres, equally likely, with Gaussian noise."""

    def sample(n: int, rng: np.random.Generator) -> Array:
        chosen = centres[rng.integers(len(centres), size=n)]
        return chosen + deviation * rng.standard_normal(chosen.shape)

    return Known(sample, lambda x: log_mixture(x, centres, deviation), entropy)


def eight_gaussians() -> Known:
    """On a circle of radius 2, deviation .2."""
    t = np.arange(8) * math.pi / 4
    return noisy(2 * np.stack([np.cos(t), np.sin(t)], 1), 0.2, 1.6981)


def two_moons() -> Known:
    """Arcs (cos t, sin t) and (1 - cos t, .5 - sin t), t in [0, pi], with noise of .1.

    Each arc is 2,000 points, .016 noise apart.
    """
    t = (np.arange(2000) + 0.5) / 2000 * math.pi
    upper, lower = np.array([np.cos(t), np.sin(t)]), np.array([1 - np.cos(t), 0.5 - np.sin(t)])
    return noisy(np.concatenate([upper, lower], 1).T, 0.1, 1.0076)


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
