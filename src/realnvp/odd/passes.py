"""Images through a flow, a batch at a time."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp.bijections.precision import float64_like
from realnvp.config.errors import ParameterError
from realnvp.data import dequantise
from realnvp.data.images import RefusedImage, check_fit
from realnvp.data.pixels import each_image
from realnvp.evaluation.whole import MOST_IN_FLOAT64, continued
from realnvp.flows.flow import Flow, batch_that_fits, config_of, evaluating
from realnvp.flows.strips import in_strips
from realnvp.odd.statistics import statistics
from realnvp.tools.device import moved
from realnvp.tools.noise import Purpose, uniform

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
    noise_draws: draws of the dequantisation noise; the mean over them is taken.
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
                    with in_strips(flow, x.shape[2:]):
                        found = statistics(flow, x, shape[1:])
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
    return moved(dequantise(torch.from_numpy(pixels), noise.to(state.dtype)), state.device)


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
