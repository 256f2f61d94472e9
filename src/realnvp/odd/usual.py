"""What is usual in normal images, and how far from it others are."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

KAPPA = 10.0
"""As many images does the average over all places count in the average of one place."""
SHRINK = 0.01
"""Share of the identity in the correlations: so few normal images make none of them certain."""


class Usual(NamedTuple):
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

    def over_places(self) -> "Usual":
        """The mean and deviation of all places, (K, 1, 1)."""
        mean = self.mean.mean((1, 2), keepdim=True)
        variance = (self.deviation.square() + (self.mean - mean).square()).mean(
            (1, 2), keepdim=True
        )
        return Usual(mean, variance.sqrt(), self.whitening)


def usual(parts: Iterable[Tensor]) -> Usual:
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
    return Usual(mean, variance.clamp(min=1e-12).sqrt(), _whitening(covariance))


def _mean_product(first: Tensor, second: Tensor) -> Tensor:
    """(K, K): of two statistics, the mean over places of the first times the second."""
    return torch.einsum("jhw,khw->jk", first, second) / first[0].numel()


def _whitening(covariance: Tensor) -> Tensor:
    """W, (K, K), with W C W^T = I for the correlations C, which are shrunk to the identity."""
    deviation = covariance.diagonal().clamp(min=1e-12).sqrt()
    identity = torch.ones_like(deviation).diag()
    correlations = torch.lerp(covariance / deviation.outer(deviation), identity, SHRINK)
    return torch.linalg.inv(torch.linalg.cholesky(correlations))
