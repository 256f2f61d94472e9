"""Between stored images and a flow's: grey levels and real numbers, channels last and first."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from realnvp.config.errors import ParameterError
from realnvp.data.dataset import Pixels, Values
from realnvp.tools.arrays import as_tensor


def dequantise(images: Tensor, noise: Tensor) -> Tensor:
    """x = v + u in the type of the noise, with floor(x) == v for every pixel.

    images: uint8 or uint16, grey levels v, (B, C, H, W); noise: u in [0, 1), same shape.
    """
    assert images.shape == noise.shape, f"images {tuple(images.shape)}, noise {tuple(noise.shape)}"
    # float32 has 24 bits, of which v in 128 .. 255 leaves 16 after the point: a u next to 1 would
    # be rounded up, to v + 1.
    deep = images.dtype == torch.uint16
    largest = 1 - (2**15 if deep else 128) * torch.finfo(noise.dtype).eps
    v = images.to(noise.dtype) if deep else images.contiguous()  # torch adds no uint16
    return noise.clamp(max=largest).add_(v)


def quantize(x: Tensor | npt.NDArray[Any], *, levels: int = 256) -> Tensor:
    """The grey levels floor(x), clamped to 0 .. levels - 1; of x's shape, any shape.

    uint8, or uint16 for more than 256 levels.

    ValueError if x has a NaN, which no grey level stands for, or if levels are more than 65,536.
    """
    if not 2 <= levels <= 65536:
        raise ValueError(f"levels: must be between 2 and 65536, got {levels}")
    x = x if isinstance(x, Tensor) else as_tensor(x)
    if x.is_complex():
        raise ParameterError("x", f"must be real numbers, got {x.dtype}")
    if not x.is_floating_point():
        x = x.long()  # torch clamps no other integers of 16 bits or more, and no bool
    if x.isnan().any():
        raise ValueError(f"{int(x.isnan().sum())} of {x.numel()} pixels are NaN")
    return x.floor().clamp(0, levels - 1).to(torch.uint8 if levels <= 256 else torch.uint16)


def each_image(images: Iterable[Any]) -> Iterator[Any]:
    """The images of an array or a list, one by one. ParameterError: it is neither."""
    try:
        return iter(images)
    except TypeError:
        words = f"expected an array or a list of images, got {type(images).__name__}"
        raise ParameterError("images", words) from None


def to_pixels(x: Tensor, *, levels: int) -> Pixels:
    """The images that x, (N, C, H, W) in data units, rounds to: (N, H, W, C), NaN as 0."""
    return channels_last(quantize(x.nan_to_num(), levels=levels).cpu().numpy())


def channels_first(images: Values) -> Values:
    """A view, (N, C, H, W), of images (N, H, W, C); rows, (N, D), stay as they are."""
    return np.moveaxis(images, -1, 1)


def channels_last(images: Values) -> Values:
    """A view, (N, H, W, C), of images (N, C, H, W)."""
    return np.moveaxis(images, 1, -1)
