"""What is usual in normal images, and how far from it others are."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

KAPPA = 10.0
"""As many images does the average over all places count in the average of one place."""


class Usual(NamedTuple):
    """Mean and standard deviation of K statistics over normal images."""

    mean: Tensor
    """(K, h, w): of each place; (K, 1, 1), over all places, if normal images differ in size."""
    deviation: Tensor

    def away(self, statistics: Tensor) -> Tensor:
        """How many deviations from the mean, to either side, of (B, K, h, w).

        Infinite where a statistic is not finite. Images of another size than the normal ones are
        compared with the average over all places.
        """
        fits = self.mean.shape[-2:] in (statistics.shape[-2:], (1, 1))
        mean, deviation = self if fits else self.over_places()
        return ((statistics - mean) / deviation).abs().nan_to_num(torch.inf)

    def over_places(self) -> "Usual":
        """Mean and deviation over all places, (K, 1, 1)."""
        mean = self.mean.mean((1, 2), keepdim=True)
        variance = (self.deviation.square() + (self.mean - mean).square()).mean(
            (1, 2), keepdim=True
        )
        return Usual(mean, variance.sqrt())


def usual(parts: Iterable[Tensor]) -> Usual:
    """Estimate `Usual` from the statistics of normal images, (B, K, h, w) each.

    Images of one size: each place has a mean and a deviation of its own, since what is usual in the
    middle of a digit is not usual at its border. The fewer images, the nearer to the average over
    all places.
    ValueError: no image has finite statistics.
    """
    count: dict[torch.Size, int] = defaultdict(int)
    sums: dict[torch.Size, Tensor] = {}
    for part in parts:
        part = part[part.flatten(1).isfinite().all(1)].double()
        if len(part):
            both = torch.stack([part.sum(0), part.square().sum(0)])
            sums[both.shape] = sums[both.shape] + both if both.shape in sums else both
            count[both.shape] += len(part)
    if not sums:
        raise ValueError("normal: the flow gives none of these images a finite density")
    places = sum(count[shape] * shape[-2] * shape[-1] for shape in sums)
    pooled = torch.stack([both.sum((2, 3)) for both in sums.values()]).sum(0) / places
    mean, square = pooled[..., None, None]
    variance = square - mean.square()
    if len(sums) == 1:
        ((shape, both),) = sums.items()
        weight = count[shape] / (count[shape] + KAPPA)
        own_mean, own_square = both / count[shape]
        mean = torch.lerp(mean.expand_as(own_mean), own_mean, weight)
        own_variance = own_square - 2 * mean * own_mean + mean.square()
        variance = torch.lerp(variance.expand_as(own_variance), own_variance, weight)
    return Usual(mean, variance.clamp(min=1e-12).sqrt())
