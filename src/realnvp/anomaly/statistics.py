"""Statistics of image patches, and the model of normal images."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from realnvp.config.fields import Config
from realnvp.data.images import check_fit
from realnvp.evaluation.score import Image, batches, dequantized, encode, log_joint
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, config_of, evaluating
from realnvp.progress import track

PATCH = 4  # side in pixels
SMOOTHING = 3.0  # standard deviation, in pixels, of the Gaussian that smooths statistics
EPSILON = 0.01  # added before a logarithm, which a single z near 0 would dominate
SHRINKAGE = 10.0  # pseudo-count that shrinks each patch's moments towards the global ones
RIDGE = 0.01  # weight of the identity in the correlations
QUANTILES = 1024  # of distances, denser towards the anomalous end
MAX_EXPONENT = 8.0  # of the tail's extrapolation
MIN_DISTANCE, MAX_DISTANCE = 1e-6, 1e30
REGION = 0.7  # a region reaches as far as log fractions are this much of the minimum

Images = NDArray[Any] | Tensor | Sequence[Image]
"""uint8 or uint16: (N, C, H, W), or images (C, H, W) of several sizes."""


class Batch(NamedTuple):
    """Images of one size after their pass through the flow."""

    images: NDArray[Any]
    """(B, C, H, W)."""
    log_prob: Tensor
    """(B,), nats."""
    statistics: Tensor
    """(B, K, H / 4, W / 4)."""


def image_statistics(
    flow: Flow, images: Iterable[Image], *, noise_draws: int = 1, seed: int = 0
) -> Iterator[Batch]:
    """Images and their `patch_statistics`, in their order, averaged over draws of the noise.

    ValueError: an image does not fit the flow.
    """
    config = config_of(flow)
    for pixels in batches(_checked(image, config) for image in track(images, "images")):
        with evaluating(flow):
            xs = (dequantized(flow, pixels, seed=seed, draw=draw) for draw in range(noise_draws))
            draws = [patch_statistics(flow, x, pixels.shape[2:]) for x in xs]
        log_prob, statistics = (torch.stack(each).mean(0) for each in zip(*draws, strict=True))
        yield Batch(pixels, log_prob, statistics)


def _checked(image: Any, config: Config) -> Image:
    pixels = np.asarray(image)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3:
        kind = f"{pixels.dtype} {pixels.shape}"
        raise ValueError(f"images: expected uint8 or uint16 (N, C, H, W), got images {kind}")
    last, channels = pixels.transpose(1, 2, 0), config.shape[0]
    check_fit(last, channels=channels, levels=config.levels, name="images")
    return pixels


def patch_statistics(flow: Flow, x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log p of each image, (B,), in nats, and smoothed statistics of its patches, (B, K, h, w).

    For each patch, from z of one pass:
        mean of z^2                1 where an image resembles the training images
        mean of log z^2            low where an image is too regular
        log of the mean of z^2     above the mean of log z^2 where few z are large

    Of a flow with classes, log p is of the mixture, and z is given the likeliest class.

    x: padded images in data units.
    size: (H, W) of their upper left part that counts.
    """
    if isinstance(flow.condition, Classes):
        joint = log_joint(flow, x, size)
        z, _ = encode(flow, x, size, joint.argmax(1))
        log_prob = joint.logsumexp(1)
    else:
        z, log_prob = encode(flow, x, size)
    squares = z[:, :, : size[0], : size[1]].float().square().mean(1, keepdim=True)
    maps = torch.cat([squares, (squares + EPSILON).log()], dim=1)
    means = F.avg_pool2d(maps, PATCH, ceil_mode=True)
    statistics = torch.cat([means, (means[:, :1] + EPSILON).log()], dim=1)
    return log_prob, smooth(statistics, SMOOTHING)


def smooth(maps: Tensor, deviation: float) -> Tensor:
    """(B, K, h, w), averaged by a Gaussian; patches beyond the border have no weight.

    deviation: of the Gaussian, in pixels.
    """
    patches = deviation / PATCH
    reach = round(3 * patches)
    offsets = torch.arange(-reach, reach + 1, device=maps.device).to(maps)
    weights = offsets.div(patches).square().mul(-0.5).exp()
    total, inside = (_convolve(part, weights) for part in (maps, torch.ones_like(maps[:1, :1])))
    return total / inside


def _convolve(maps: Tensor, weights: Tensor) -> Tensor:
    """Each map convolved with the weights along both sides, zeros beyond the border."""
    count, reach = maps.shape[1], len(weights) // 2
    kernel = weights.expand(count, 1, -1)
    rows = F.conv2d(maps, kernel[..., None], padding=(reach, 0), groups=count)
    return F.conv2d(rows, kernel[..., None, :], padding=(0, reach), groups=count)


def most_anomalous_region(fractions: NDArray[Any]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom), in pixels, of the most anomalous region of a map (H, W).

    The region: all patches connected to the minimum whose log fraction is at least `REGION` of its.
    """
    from scipy.ndimage import find_objects, label

    height, width = fractions.shape
    step = PATCH if min(height, width) > PATCH else 1
    patches = fractions[step // 2 :: step, step // 2 :: step]
    anomaly = -np.log(np.maximum(patches, np.finfo(np.float32).tiny))
    labels, _ = label(anomaly >= REGION * anomaly.max(), np.ones((3, 3)))
    rows, columns = find_objects(labels)[labels.flat[anomaly.argmax()] - 1]
    return (
        step * columns.start,
        step * rows.start,
        min(width, step * columns.stop),
        min(height, step * rows.stop),
    )


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
            raise ValueError("normal: none of these images has a finite density")
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
