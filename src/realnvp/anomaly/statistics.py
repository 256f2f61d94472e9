"""Statistics of each patch of an image, from one pass of the flow."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from realnvp.config import Config
from realnvp.data.images import check_fit
from realnvp.evaluation.score import Image, batches, dequantized, encode, log_joint
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, config_of, evaluating
from realnvp.progress import track

PATCH = 4  # side in pixels
SMOOTHING = 3.0  # standard deviation, in pixels, of the Gaussian that smooths statistics
ROWS = 256  # of an image, squared at once; a multiple of PATCH
EPSILON = 0.01  # added before a logarithm, which a single z near 0 would dominate
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
    height, width = size
    strips = range(0, height, ROWS)
    parts = [_statistics(z[:, :, top : top + ROWS][:, :, : height - top, :width]) for top in strips]
    return log_prob, smooth(torch.cat(parts, dim=2), SMOOTHING)


def _statistics(z: Tensor) -> Tensor:
    """(B, K, h, w): means over patches."""
    squares = z.float().square().mean(1, keepdim=True)
    maps = torch.cat([squares, (squares + EPSILON).log()], dim=1)
    means = F.avg_pool2d(maps, PATCH, ceil_mode=True)
    return torch.cat([means, (means[:, :1] + EPSILON).log()], dim=1)


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
