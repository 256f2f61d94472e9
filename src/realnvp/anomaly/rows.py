"""Verdicts on image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from realnvp.anomaly.detector import FITTED, AnomalyDetector, Array, Finding
from realnvp.anomaly.normal import calibrates, least_rate, p_values, sentence
from realnvp.config.errors import ParameterError, count_of
from realnvp.config.fields import BETWEEN_0_AND_1, check_number
from realnvp.config.units import in_bits_per_dim
from realnvp.data import splits_of_run
from realnvp.evaluation.likelihood import log_probs
from realnvp.evaluation.score import RowScore, ranked
from realnvp.flows.flow import Flow, config_of


class RowVerdict(NamedTuple):
    """What is said of one row."""

    path: str
    row: int
    """1 is the first after the header."""
    log_prob: float
    """Nats, in the units of the columns."""
    rank: int
    """1 is the least likely."""
    percentile: float
    """Of minus log_prob among the normal rows: 100, all of them are more likely."""
    p_value: float
    odd: bool


def row_verdicts(
    scores: Sequence[RowScore], normal: Sequence[float], *, fpr: float
) -> list[RowVerdict]:
    """Verdicts on rows, by the log-densities of normal rows, which training has not seen.

    false_alarms: the share of normal rows that may be called odd. ParameterError: is no share.
    """
    check_number("false_alarms", fpr, float, BETWEEN_0_AND_1)
    oddness, usual = [-score.log_prob for score in scores], np.sort(-np.array(normal))
    below = np.searchsorted(usual, oddness) / len(usual)
    return [
        RowVerdict(*score, round(100 * float(share), 1), float(p), bool(p <= fpr))
        for score, share, p in zip(scores, below, p_values(oddness, usual), strict=True)
    ]


def of_validation(flow: Flow, run: Path) -> list[float]:
    """Log-densities of a run's validation rows. ParameterError names `normal` without them."""
    try:
        data = splits_of_run(run, config_of(flow))
    except (ValueError, OSError) as error:
        raise ParameterError("normal", f"name a table of normal rows, since {error}") from None
    context = (data.labels or {}).get("validation")
    return log_probs(flow, np.asarray(data.validation[:]), context=context).tolist()


def oddest(verdicts: Sequence[RowVerdict], count: int) -> str:
    """Lines for people: the least likely rows."""
    ordered = sorted(verdicts, key=lambda entry: entry.rank)[:count]
    return "\n".join(
        f"{entry.path}, row {entry.row}: {entry.log_prob:.3f} nats, less likely than "
        f"{entry.percentile:g} % of the normal rows, p {entry.p_value:.2g}"
        for entry in ordered
    )


def summary(verdicts: Sequence[RowVerdict], normal: int, *, fpr: float) -> str:
    """'3 of 200 rows odd at a false-alarm rate of at most .01 (400 normal rows)'."""
    few = (
        ""
        if calibrates(normal, fpr)
        else f"; so few calibrate rates of {least_rate(normal):.2g} and more"
    )
    odd = [entry.odd for entry in verdicts]
    return sentence(odd, " rows", fpr, count_of(normal, "normal row") + few)


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


def verdict(detector: AnomalyDetector, path: str, channels: int, finding: Finding) -> Verdict:
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
        odd=finding.p_value <= detector.fpr,
        box=finding.box,
    )


def with_ranks(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, ranked by log_prob."""
    ranks = ranked([entry.log_prob for entry in verdicts])
    return [entry._replace(rank=rank) for entry, rank in zip(verdicts, ranks, strict=True)]


def verdict_summary(detector: AnomalyDetector, verdicts: Sequence[Verdict]) -> str:
    """'3 of 200 odd at a false-alarm rate of at most .01 (400 normal images)'."""
    odd = [entry.odd for entry in verdicts]
    return sentence(odd, "", detector.fpr, count_of(detector.calibrating, "normal image"))


def too_few(detector: AnomalyDetector) -> str:
    """Why no image can be called odd, and what can be done about it; '' if images can."""
    count = detector.calibrating
    if calibrates(count, detector.fpr):
        return ""
    needed = images_for(detector.fpr)
    return (
        f"{count_of(count, 'normal image')} {'calibrates' if count == 1 else 'calibrate'} "
        f"false-alarm rates of {least_rate(count):.2g} and more, so none can be called odd at "
        f"{detector.fpr:g}: that needs {needed} normal images (a quarter of them says "
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
