"""Conformal p-values: a guaranteed false-positive rate, whatever the anomaly score."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realnvp.evaluation.score import Score, ranked

BITS = 12  # of the mantissa of a score


def rounded(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores to 12 bits; NaN, the most anomalous, becomes -inf.

    The score of an image differs by some 1e-6 with its batch, since networks are float32. Unequal
    scores of equal images would break the guarantee, which needs their order to be random.
    """
    values = np.asarray(scores, float)
    mantissa, exponent = np.frexp(np.where(np.isnan(values), -np.inf, values))
    return np.ldexp(np.round(np.ldexp(mantissa, BITS)), exponent - BITS)


def p_values(scores: ArrayLike, normal: ArrayLike) -> NDArray[np.float64]:
    """p = (1 + number of the n normal scores that are at most as large) / (n + 1), of each score.

    scores: lower is more anomalous.
    normal: scores of n normal images, which had no part in how scores are computed.

    If an image and the n normal images are exchangeable, P(p <= a) <= a for every a, whatever the
    score (Vovk, Gammerman, Shafer 2005, chapter 2).
    """
    ordered = np.sort(rounded(normal))
    return (1 + np.searchsorted(ordered, rounded(scores), side="right")) / (len(ordered) + 1)


def with_p_values(scores: Sequence[Score], normal: ArrayLike, fpr: float) -> list[Score]:
    """Scores of rows, calibrated by the log-densities of normal rows; sorted and ranked.

    The anomaly score of a row is its log-density.
    """
    values = [score.log_prob for score in scores]
    chances = p_values(values, normal)
    judged = [
        replace(score, score=value, p_value=float(p), anomalous=bool(p <= fpr))
        for score, value, p in zip(scores, values, chances, strict=True)
    ]
    return sorted(ranked(judged), key=lambda score: score.rank)
