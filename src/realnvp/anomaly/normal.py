"""Models of normal images: moments of patch statistics, and the tail of their distances."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor

SHRINKAGE = 10.0  # pseudo-count that shrinks each patch's moments towards the global ones
RIDGE = 0.01  # weight of the identity in the correlations
QUANTILES = 1024  # of distances, denser towards the anomalous end
MAX_EXPONENT = 8.0  # of the tail's extrapolation
MIN_DISTANCE, MAX_DISTANCE = 1e-6, 1e30


class NormalModel(NamedTuple):
    """Mean, standard deviation and correlations of K patch statistics over normal images."""

    mean: Tensor
    """(K, h, w), of each patch; (K, 1, 1), over all patches, if the images differ in size."""
    deviation: Tensor
    whitening: Tensor
    """(K, K): deviations from the mean become uncorrelated."""

    def distance(self, statistics: Tensor) -> Tensor:
        """(B, h, w): Mahalanobis distance of (B, K, h, w) from the mean, over sqrt(K).

        About 1 for normal patches, infinite where a statistic is not finite. The test is two-sided:
        overly smooth regions have unusually high likelihood. Images of another size than the normal
        ones are compared with the moments over all patches.
        """
        fits = self.mean.shape[-2:] in (statistics.shape[-2:], (1, 1))
        model = self if fits else self.over_patches()
        mean, deviation, whitening = (each.to(statistics.device) for each in model)
        white = torch.einsum("jk,bkhw->bjhw", whitening, (statistics - mean) / deviation)
        return white.square().mean(1).sqrt().nan_to_num(torch.inf)

    def over_patches(self) -> "NormalModel":
        """The model with the moments of all patches together, (K, 1, 1)."""
        mean = self.mean.mean((1, 2), keepdim=True)
        variance = (self.deviation.square() + (self.mean - mean).square()).mean(
            (1, 2), keepdim=True
        )
        return NormalModel(mean, variance.sqrt(), self.whitening)

    @classmethod
    def fit(cls, parts: Iterable[Tensor]) -> Self:
        """Estimate the moments from statistics of normal images, (B, K, h, w) each.

        If all images have one size, each patch has a mean and a deviation of its own, since the
        middle of a digit differs from its border; they shrink towards the global moments where
        images are few. Correlations are global.

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
        patches = sum(count[shape] * shape[-2] * shape[-1] for shape in sums)
        mean, square = torch.stack([both.sum((2, 3)) for both in sums.values()]).sum(0) / patches
        mean, square = mean[:, None, None], square[:, None, None]
        own_mean, variance = mean, square - mean.square()
        if len(sums) == 1:
            ((shape, both),) = sums.items()
            weight = count[shape] / (count[shape] + SHRINKAGE)
            own_mean, own_square = both / count[shape]
            mean = torch.lerp(mean.expand_as(own_mean), own_mean, weight)
            own_variance = own_square - 2 * mean * own_mean + mean.square()
            variance = torch.lerp(variance.expand_as(own_variance), own_variance, weight)
        # Mean of (s - mean)(s - mean)^T over images and patches, expanded: mean came last.
        cross = _mean_product(own_mean, mean)
        covariance = products / patches - cross - cross.T + _mean_product(mean, mean)
        return cls(mean, variance.clamp(min=1e-12).sqrt(), _whitening(covariance))


def _mean_product(first: Tensor, second: Tensor) -> Tensor:
    """(K, K): the mean over patches of the products of two statistics."""
    return torch.einsum("jhw,khw->jk", first, second) / first[0].numel()


def _whitening(covariance: Tensor) -> Tensor:
    """W, (K, K), with W C W^T = I for the correlations C, which are shrunk to the identity."""
    deviation = covariance.diagonal().clamp(min=1e-12).sqrt()
    identity = torch.ones_like(deviation).diag()
    correlations = torch.lerp(covariance / deviation.outer(deviation), identity, RIDGE)
    return torch.linalg.inv(torch.linalg.cholesky(correlations))


class TailFunction(NamedTuple):
    """Fraction of normal patches beyond a distance: its quantiles in rising order, (Q,) each."""

    log_distance: Tensor
    log_fraction: Tensor

    @classmethod
    def fit(cls, distances: Tensor) -> Self:
        """Quantiles of the distances of normal patches, (n,)."""
        ordered = distances.double().clamp(MIN_DISTANCE, MAX_DISTANCE).sort(descending=True).values
        count = len(ordered)
        # Patches that are more distant: 0, 1, 2 ..., then ever larger steps.
        above = torch.logspace(0, 1, QUANTILES, base=count, dtype=torch.float64, device="cpu") - 1
        above = above.round().long().clamp(max=count - 1)
        above = above.unique()  # type: ignore[no-untyped-call]  # torch's own
        fraction = (above + 1).double() / (count + 1)
        return cls(ordered[above].log().flip(0), fraction.log().flip(0))

    def fraction_beyond(self, distance: Tensor) -> Tensor:
        """The fraction of normal patches that are more distant, of the distance's shape.

        Beyond the largest normal distance it continues as a power law, with the exponent of the
        largest hundredth, so that far patches are still ranked.
        """
        x = distance.clamp(MIN_DISTANCE, MAX_DISTANCE).log()
        known, fraction = self.log_distance.to(distance), self.log_fraction.to(distance)
        right = torch.searchsorted(known, x.contiguous()).clamp(1, len(known) - 1)
        left = right - 1
        step = (known[right] - known[left]).clamp(min=1e-9)
        inside = ((x - known[left]) / step).clamp(0, 1)
        beyond = (x - known[-1]).clamp(min=0)
        log_fraction = torch.lerp(fraction[left], fraction[right], inside)
        return torch.exp(log_fraction - self._exponent() * beyond)

    def _exponent(self) -> float:
        """Minus the slope of log fraction over log distance, over the largest hundredth."""
        start = int(torch.searchsorted(self.log_fraction.neg(), math.log(100)))
        start = min(start, len(self.log_fraction) - 2)
        fall = self.log_fraction[start] - self.log_fraction[-1]
        rise = (self.log_distance[-1] - self.log_distance[start]).clamp(min=1e-9)
        return min(MAX_EXPONENT, float(fall / rise))
