"""How well a flow given classes tells them apart: the mixture, and p(c | x) by Bayes' rule."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp.config.units import in_bits_per_dim
from realnvp.data.dataset import Indices
from realnvp.evaluation.likelihood import summarise
from realnvp.evaluation.record import OfClasses

BINS = 10
RESAMPLES = 200  # of the bootstrap


def of_classes(joint: Tensor, labels: Indices, shape: Sequence[int]) -> OfClasses:
    """Mixture, accuracy, log-loss and calibration, each with its error.

    joint: (N, K), log p(c) + log p(x | c).
    labels: (N,), the true classes.
    shape: of one x.
    """
    mixture = summarise(in_bits_per_dim(joint.logsumexp(1), shape))
    posterior = joint.log_softmax(1)
    confidence, likeliest = posterior.exp().max(1)
    right = (likeliest == torch.from_numpy(labels)).double()
    accuracy = summarise(right)
    loss = summarise(-posterior.gather(1, torch.from_numpy(labels)[:, None])[:, 0])
    calibration, error = _calibration(confidence.numpy(), right.numpy())
    return OfClasses(
        count=joint.shape[1],
        mixture_bits_per_dim=_finite(mixture.mean),
        mixture_standard_error=_finite(mixture.standard_error),
        accuracy=accuracy.mean,
        accuracy_standard_error=_finite(accuracy.standard_error),
        log_loss=_finite(loss.mean),
        log_loss_standard_error=_finite(loss.standard_error),
        calibration_error=calibration,
        calibration_standard_error=error,
    )


def _calibration(
    confidence: NDArray[np.float64], right: NDArray[np.float64]
) -> tuple[float, float]:
    """Expected calibration error, and its standard error by the bootstrap over images."""
    rng, count = np.random.default_rng(0), len(right)

    def error(rows: NDArray[np.int64]) -> float:
        by_confidence = rows[np.argsort(confidence[rows], kind="stable")]
        bins = np.array_split(by_confidence, min(BINS, count))
        gaps = [abs(np.sum(right[each] - confidence[each])) for each in bins]
        return float(np.sum(gaps) / count)

    again = [error(rng.integers(count, size=count)) for _ in range(RESAMPLES)]
    return error(np.arange(count)), float(np.std(again))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
