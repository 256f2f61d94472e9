"""From scores to verdicts with a known rate of false alarms."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

QUANTILES = 1024
"""How many are kept, the more the nearer to the odd end."""
STEEPEST = 8.0
LEAST, MOST = 1e-6, 1e30
"""What is less or more odd counts as this odd."""


class TailFunction(NamedTuple):
    """Quantiles of the oddness of normal places, in rising order, (Q,) each."""

    log_oddness: Tensor
    log_share: Tensor
    """Natural logarithm of the share of normal places that are odder."""

    @classmethod
    def of_places(cls, oddness: Tensor) -> Self:
        """Of the oddness of normal places, (n,)."""
        ordered = oddness.double().clamp(LEAST, MOST).sort(descending=True).values
        count = len(ordered)
        # How many places are odder: 0, 1, 2 ..., and of many ever fewer.
        odder = torch.logspace(0, 1, QUANTILES, base=count, dtype=torch.float64, device="cpu") - 1
        odder = odder.round().long().clamp(max=count - 1)
        odder = odder.unique()  # type: ignore[no-untyped-call]  # torch's own
        return cls(ordered[odder].log().flip(0), ((odder + 1).double() / (count + 1)).log().flip(0))

    def among_normal(self, oddness: Tensor) -> Tensor:
        """The share of normal places that are odder, of oddness's shape.

        Beyond the oddest normal place it goes on as a power of oddness, whose exponent is that of
        the oddest hundredth, `STEEPEST` at most: so what is far out is still ranked.
        """
        x, known = oddness.clamp(LEAST, MOST).log(), self.log_oddness.to(oddness)
        right = torch.searchsorted(known, x.contiguous()).clamp(1, len(known) - 1)
        left = right - 1
        step = (known[right] - known[left]).clamp(min=1e-9)
        inside = ((x - known[left]) / step).clamp(0, 1)
        share = self.log_share.to(oddness)
        beyond = (x - known[-1]).clamp(min=0)
        return torch.exp(torch.lerp(share[left], share[right], inside) - self._exponent() * beyond)

    def _exponent(self) -> float:
        """Of the share as a power of oddness, over the oddest hundredth of the normal places."""
        start = int(torch.searchsorted(self.log_share.neg(), math.log(100)))
        start = min(start, len(self.log_share) - 2)
        fall = self.log_share[start] - self.log_share[-1]
        rise = (self.log_oddness[-1] - self.log_oddness[start]).clamp(min=1e-9)
        return min(STEEPEST, float(fall / rise))


KAPPA = 10.0
"""As many images does the average over all places count in the average of one place."""
SHRINK = 0.01
"""Share of the identity in the correlations: so few normal images make none of them certain."""


class NormalModel(NamedTuple):
    """Mean, standard deviation and correlations of K statistics over normal images."""

    mean: Tensor
    """(K, h, w): of each place; (K, 1, 1), over all places, if normal images differ in size."""
    deviation: Tensor
    whitening: Tensor
    """(K, K), to statistics that are not correlated; of deviations from the mean."""

    def oddness(self, statistics: Tensor) -> Tensor:
        """(B, h, w): the Mahalanobis distance of (B, K, h, w) from the mean, over sqrt(K).

        About 1 where an image is normal, infinite where a statistic is not finite. So a place is
        odd if a statistic is far from the mean, to either side, and if two are not as far apart or
        as near as usual. Images of another size than the normal ones are compared with the average
        over all places.
        """
        fits = self.mean.shape[-2:] in (statistics.shape[-2:], (1, 1))
        known = self if fits else self.over_places()
        mean, deviation, whitening = (each.to(statistics.device) for each in known)
        away = torch.einsum("jk,bkhw->bjhw", whitening, (statistics - mean) / deviation)
        return away.square().mean(1).sqrt().nan_to_num(torch.inf)

    def over_places(self) -> "NormalModel":
        """The mean and deviation of all places, (K, 1, 1)."""
        mean = self.mean.mean((1, 2), keepdim=True)
        variance = (self.deviation.square() + (self.mean - mean).square()).mean(
            (1, 2), keepdim=True
        )
        return NormalModel(mean, variance.sqrt(), self.whitening)


def usual(parts: Iterable[Tensor]) -> NormalModel:
    """Estimate `Usual` from the statistics of normal images, (B, K, h, w) each.

    Images of one size: each place has a mean and a deviation of its own, since what is usual in the
    middle of a digit is not usual at its border. The fewer images, the nearer to the average over
    all places. The correlations are of all places.
    ValueError: no image has finite statistics.
    """
    count: dict[torch.Size, int] = defaultdict(int)
    sums: dict[torch.Size, Tensor] = {}
    products = torch.zeros((), device="cpu")
    for part in parts:
        part = part[part.flatten(1).isfinite().all(1)].double()
        if len(part):
            both = torch.stack([part.sum(0), part.square().sum(0)])
            sums[both.shape] = sums[both.shape] + both if both.shape in sums else both
            count[both.shape] += len(part)
            products = products + torch.einsum("bjhw,bkhw->jk", part, part)
    if not sums:
        raise ValueError("normal: the flow gives none of these images a finite density")
    places = sum(count[shape] * shape[-2] * shape[-1] for shape in sums)
    pooled = torch.stack([both.sum((2, 3)) for both in sums.values()]).sum(0) / places
    mean, square = pooled[..., None, None]
    own_mean, variance = mean, square - mean.square()
    if len(sums) == 1:
        ((shape, both),) = sums.items()
        weight = count[shape] / (count[shape] + KAPPA)
        own_mean, own_square = both / count[shape]
        mean = torch.lerp(mean.expand_as(own_mean), own_mean, weight)
        own_variance = own_square - 2 * mean * own_mean + mean.square()
        variance = torch.lerp(variance.expand_as(own_variance), own_variance, weight)
    # The sum over images of (s - mean)(s - mean)^T, of which the means are known only now.
    cross = _mean_product(own_mean, mean)
    covariance = products / places - cross - cross.T + _mean_product(mean, mean)
    return NormalModel(mean, variance.clamp(min=1e-12).sqrt(), _whitening(covariance))


def _mean_product(first: Tensor, second: Tensor) -> Tensor:
    """(K, K): of two statistics, the mean over places of the first times the second."""
    return torch.einsum("jhw,khw->jk", first, second) / first[0].numel()


def _whitening(covariance: Tensor) -> Tensor:
    """W, (K, K), with W C W^T = I for the correlations C, which are shrunk to the identity."""
    deviation = covariance.diagonal().clamp(min=1e-12).sqrt()
    identity = torch.ones_like(deviation).diag()
    correlations = torch.lerp(covariance / deviation.outer(deviation), identity, SHRINK)
    return torch.linalg.inv(torch.linalg.cholesky(correlations))


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
