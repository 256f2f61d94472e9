"""Verdicts on image files."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from realnvp.config.units import in_bits_per_dim
from realnvp.config.words import count_of
from realnvp.evaluation.score import ranked
from realnvp.odd.conformal import calibrates, least_rate, sentence
from realnvp.odd.detector import FITTED, Array, Detector, Finding


class Verdict(NamedTuple):
    """What is said of one image file."""

    path: str
    log_prob: float
    """Nats."""
    bits_per_dim: float
    rank: int
    """By log_prob, 1 is the least likely."""
    percentile: float
    """Of bits_per_dim among the normal images: 100, all of them are more likely."""
    score: float
    """The lower, the odder."""
    p_value: float
    odd: bool
    box: tuple[int, int, int, int]
    """Of the oddest place: left, top, right, bottom, in pixels."""


def verdict(detector: Detector, path: str, channels: int, finding: Finding) -> Verdict:
    """The verdict on one image file; its rank is not known yet, 0."""
    bits = in_bits_per_dim(finding.log_prob, (channels, *finding.map.shape))
    usual = detector.fitted_.bits_per_dim
    return Verdict(
        path=path,
        log_prob=finding.log_prob,
        bits_per_dim=bits,
        rank=0,
        percentile=round(100 * float(np.searchsorted(usual, bits)) / len(usual), 1),
        score=finding.score,
        p_value=finding.p_value,
        odd=finding.p_value <= detector.false_alarms,
        box=finding.box,
    )


def with_ranks(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, ranked by log_prob."""
    ranks = ranked([entry.log_prob for entry in verdicts])
    return [entry._replace(rank=rank) for entry, rank in zip(verdicts, ranks, strict=True)]


def summary(detector: Detector, verdicts: Sequence[Verdict]) -> str:
    """'3 of 200 odd at a false-alarm rate of at most .01 (400 normal images)'."""
    odd = [entry.odd for entry in verdicts]
    return sentence(odd, "", detector.false_alarms, count_of(detector.calibrating, "normal image"))


def too_few(detector: Detector) -> str:
    """Why no image can be called odd, and what can be done about it; '' if images can."""
    count = detector.calibrating
    if calibrates(count, detector.false_alarms):
        return ""
    needed = images_for(detector.false_alarms)
    return (
        f"{count_of(count, 'normal image')} {'calibrates' if count == 1 else 'calibrate'} "
        f"false-alarm rates of {least_rate(count):.2g} and more, so none can be called odd at "
        f"{detector.false_alarms:g}: that needs {needed} normal images (a quarter of them says "
        "what is usual)"
    )


def other_size(normal: Array, new: Array) -> str:
    """A caution where a new image, (C, H, W), has another size than a normal one; '' if not."""
    if normal.shape == new.shape:
        return ""
    sizes = [f"{image.shape[1]}x{image.shape[2]}" for image in (normal, new)]
    return (
        f"the first normal image is {sizes[0]}, the first new one {sizes[1]}: p-values compare "
        "images of one kind, so name normal images of that size with --normal"
    )


def images_for(rate: float) -> int:
    """How many normal images a rate of false alarms needs."""
    calibrating = 1 / rate - 1 - 1e-9
    count = max(2, int((calibrating - 1) / (1 - FITTED)))  # not more than are needed
    while count - max(1, int(FITTED * count)) < calibrating:
        count += 1
    return count
