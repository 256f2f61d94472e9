"""From scores to verdicts with a known rate of false alarms."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FALSE_ALARMS = 0.01
"""The share of normal images (rows) that may be called odd, where nothing else is asked."""


def p_values(oddness: ArrayLike, normal: ArrayLike) -> NDArray[np.float64]:
    """p = (1 + how many normal images are at least as odd) / (n + 1), of each image.

    oddness: larger is odder; NaN is odder than all.
    normal: the oddness of n normal images, which had no part in how oddness is computed.

    If an image and the n normal ones are exchangeable, P(p <= a) <= a for every a, whatever the
    score (Vovk, Gammerman, Shafer 2005, chapter 2). Images are exchangeable, their pixels are not.
    """
    ordered = np.sort(np.asarray(normal, float))  # NaN last
    odder = len(ordered) - np.searchsorted(ordered, np.asarray(oddness, float), side="left")
    return (1 + odder) / (len(ordered) + 1)


def least_rate(count: int) -> float:
    """The least rate of false alarms that so many normal images can calibrate."""
    return 1 / (count + 1)


def calibrates(count: int, rate: float) -> bool:
    """Whether so many normal images can calibrate a rate of false alarms."""
    return least_rate(count) <= rate * (1 + 1e-12)


def threshold(normal: ArrayLike, rate: float) -> float:
    """The oddness beyond which p <= rate; infinite if too few normal images calibrate the rate."""
    ordered = np.sort(np.asarray(normal, float))
    as_odd = math.floor(rate * (len(ordered) + 1) * (1 + 1e-12)) - 1  # normal images, at most
    return float(ordered[-1 - as_odd]) if as_odd >= 0 else math.inf


def sentence(odd: Sequence[bool], things: str, rate: float, normal: str) -> str:
    """'3 of 200 rows odd at a false-alarm rate of at most .01 (400 normal rows)'.

    things: ' rows', or '' for images.
    """
    most = f"{rate:g}".removeprefix("0")
    return (
        f"{sum(odd)} of {len(odd)}{things} odd at a false-alarm rate of at most {most} ({normal})"
    )
