"""What one pass of a flow tells about each place of an image."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from realnvp.bijections.base import float64_like
from realnvp.config.errors import ParameterError
from realnvp.data import dequantize
from realnvp.data.dataset import each_image
from realnvp.data.images import RefusedImage, check_fit
from realnvp.device import moved
from realnvp.evaluation.score import MOST_IN_FLOAT64, continued
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, batch_that_fits, config_of, evaluating, prior_map
from realnvp.flows.tiled import tiled
from realnvp.progress import chunks
from realnvp.random import Purpose, uniform

REACH = 0.7
"""A box reaches as far as log shares are at most this much of the oddest place's."""


def box(shares: NDArray[Any]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom, in pixels, of the oddest place of a map (H, W), as Pillow crops.

    Around all places that hang together with the oddest, and whose log share of normal places is
    at least `REACH` of its own.
    """
    height, width = shares.shape
    cells = shares[CELL // 2 :: CELL, CELL // 2 :: CELL] if min(height, width) > CELL else shares
    side = CELL if cells is not shares else 1
    odd = torch.from_numpy(-np.log(np.maximum(cells, np.finfo(np.float32).tiny)))
    hot = (odd >= REACH * odd.max()).float()[None]
    region = torch.zeros_like(hot).flatten().index_fill(0, odd.argmax(), 1).view_as(hot)
    while not torch.equal(grown := F.max_pool2d(region, 3, 1, 1) * hot, region):
        region = grown
    rows, columns = (side * region[0].any(axis).nonzero() for axis in (1, 0))
    return (
        int(columns[0]),
        int(rows[0]),
        min(width, int(columns[-1]) + side),
        min(height, int(rows[-1]) + side),
    )


Images = NDArray[Any] | Tensor | Sequence[NDArray[Any]]
"""Whole numbers: (N, C, H, W), or images (C, H, W) of several sizes."""


class Pass(NamedTuple):
    """A batch of images of one size after its pass through the flow."""

    images: NDArray[Any]
    """(B, C, H, W)."""
    log_prob: Tensor
    """(B,): nats."""
    statistics: Tensor
    """(B, K, h, w)."""


def passes(
    flow: Flow,
    images: Iterable[NDArray[Any] | Tensor],
    *,
    noise_draws: int = 1,
    seed: int = 0,
    report: Callable[[int], None] | None = None,
) -> Iterator[Pass]:
    """Images and their `statistics`, a batch after the other, in their order.

    images: whole numbers, (N, C, H, W), or a sequence of (C, H, W), of several sizes.
    noise_draws: draws of the dequantization noise; the mean over them is taken.
    seed: of the noise. An image's noise is a function of the seed and its pixels alone.
    report: told how many images are done.

    ValueError: an image is none for this flow.
    """
    done = 0
    for shape, alike in groupby(map(_checked(flow), each_image(images)), lambda image: image.shape):
        for pixels in _batches(alike, batch_that_fits(shape)):
            total: list[Tensor] = []
            with evaluating(flow):
                for draw in range(noise_draws):
                    x = continued(_noisy(flow, pixels, seed, draw), flow.divisor)
                    found = statistics(tiled(flow), x, shape[1:])
                    total = [*map(torch.add, total, found)] if total else [*found]
            yield Pass(pixels, *(part / noise_draws for part in total))
            done += len(pixels)
            if report:
                report(done)


def _noisy(flow: Flow, pixels: NDArray[Any], seed: int, draw: int) -> Tensor:
    """x = v + u, (B, C, H, W), on the flow's device."""
    state = float64_like(flow)
    if pixels[0].size > MOST_IN_FLOAT64:
        state = state.float()
    indices = [zlib.crc32(image.tobytes()) for image in pixels]
    noise = uniform(pixels.shape[1:], seed, Purpose.EVALUATE, indices=indices, round=draw)
    return moved(dequantize(torch.from_numpy(pixels), noise.to(state.dtype)), state.device)


def _batches(images: Iterable[NDArray[Any]], size: int) -> Iterator[NDArray[Any]]:
    """Consecutive images, stacked, `size` of them or fewer."""
    images = iter(images)
    while few := [*islice(images, size)]:
        yield np.stack(few)


def _checked(flow: Flow) -> Callable[[NDArray[Any] | Tensor], NDArray[Any]]:
    """A function that gives an image as an array; ValueError if it is none for the flow."""
    channels, levels = config_of(flow).shape[0], config_of(flow).levels

    def checked(image: NDArray[Any] | Tensor) -> NDArray[Any]:
        pixels = np.asarray(image)
        if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or not pixels.size:
            raise ValueError(
                "images: expected whole numbers, uint8 (N, C, H, W), "
                f"got images of {pixels.dtype}, {pixels.shape}"
            )
        try:
            check_fit(pixels.transpose(1, 2, 0), channels=channels, levels=levels, name="images")
        except RefusedImage as refused:  # its remedy is a flag
            raise ParameterError("images", refused.why) from None
        return pixels

    return checked


CELL = 4
"""Side of a place, in pixels."""
WIDTH = 3.0
"""Standard deviation, in pixels, of the Gaussian that statistics are averaged by."""
STATISTICS = 3
"""Of each place: K."""
ROWS = 256
"""Of an image, at once: so little memory is needed for large ones. A multiple of `CELL`."""
LEAST = 0.01
"""Added to z^2 before its logarithm, which a single z near 0 would rule."""


def statistics(flow: Flow, x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log p of each image, (B,), in nats, and statistics of its places, (B, K, H / 4, W / 4).

    Means over a neighbourhood of `WIDTH`, from one pass of the flow:
        z^2             1 where an image is like the training's
        log z^2         low where an image is too regular
        log energy      of the mean z^2 of a place; high beside log z^2 where few z are large

    Of a flow given classes, log p is of the mixture, and the pass is given the likeliest class.

    x: images as the flow takes them.
    size: (H, W), of the part that counts: the upper left.
    """
    likeliest, more = _likeliest(flow, x)
    z, log_prob = _passed(flow, x, flow.embed_context(likeliest, x.shape[0]), size)
    height, width = size
    parts = [_cells(z[:, :, rows, :width].float()) for rows in chunks(height, ROWS)]
    return log_prob + more, smoothed(torch.cat(parts, dim=2), WIDTH)


def _passed(
    flow: Flow, x: Tensor, context: Tensor | None, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """z of all of x, and log p of the part that counts."""
    height, width = size
    if x.shape[2:] == (height, width):
        z, log_det = flow.bijection(x, context)
        return z, flow.prior.log_prob(z) + log_det
    z, terms = flow.bijection.pointwise_log_det(x, context)
    nats = prior_map(flow.prior, z) + terms
    return z, nats[:, :, :height, :width].flatten(1).sum(1)


def _likeliest(flow: Flow, x: Tensor) -> tuple[Tensor | None, Tensor | float]:
    """The likeliest class c of each image, (B,), and log p(x) - log p(x | c). None, 0: no class."""
    if not isinstance(flow.condition, Classes):
        return None, 0.0
    log_prob, c = flow.class_log_probs(x).max(dim=1)
    return c, flow.condition.log_priors.to(log_prob)[c] - log_prob


def _cells(z: Tensor) -> Tensor:
    """Means over squares of `CELL` pixels, (B, K, h, w)."""
    squares = z.square().mean(1, keepdim=True)
    maps = torch.cat([squares, (squares + LEAST).log()], dim=1)
    means = F.avg_pool2d(maps, CELL, ceil_mode=True)
    return torch.cat([means, (means[:, :1] + LEAST).log()], dim=1)


def smoothed(maps: Tensor, deviation: float) -> Tensor:
    """(B, K, h, w): the mean around each place, weighted by a Gaussian.

    deviation: of the Gaussian, in pixels.
    """
    cells = deviation / CELL
    reach = round(3 * cells)
    away = torch.arange(-reach, reach + 1, device=maps.device).to(maps)
    weights = away.div(cells).square().mul(-0.5).exp()
    total, inside = (_convolved(part, weights) for part in (maps, torch.ones_like(maps[:1, :1])))
    return total / inside


def _convolved(maps: Tensor, weights: Tensor) -> Tensor:
    """Each map convolved with weights along both sides; beyond the border lies 0."""
    count, reach = maps.shape[1], len(weights) // 2
    kernel = weights.expand(count, 1, -1)
    down = F.conv2d(maps, kernel[..., None], padding=(reach, 0), groups=count)
    return F.conv2d(down, kernel[..., None, :], padding=(0, reach), groups=count)
