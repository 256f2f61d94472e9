"""Images in memory to bytes and back."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from realnvp.codec.archive import Archive, index_of, write
from realnvp.codec.plan import pixel_type
from realnvp.config.fields import Config
from realnvp.data.dataset import Pixels, Split, channels_first
from realnvp.evaluation.likelihood import BITS_PER_DIM, unit_of
from realnvp.flows.flow import Flow, config_of, refuse_fast
from realnvp.io.files import DamagedError
from realnvp.progress import counter

MOST = 1024
Images = Pixels | Tensor | Sequence[Pixels | Tensor]


def compress(flow: Flow, images: Images) -> bytes:
    """Code images without loss: about `bits_per_dim` bits for each channel of each pixel.

    The bytes are decoded and compared before they are returned. They are the content of a file that
    `realnvp decompress` reads.

    images: an array or tensor (N, C, H, W), or a list of (C, H, W) of any sizes. uint8; uint16 for
        a flow of more than 256 levels. Gray images fit a flow of colors, and colors one of gray.

    ValueError: the images are not of this kind, or have more levels than the flow.
    """
    check_flow(flow)
    pictures = [_pixels(image, config_of(flow)) for image in images]
    if not pictures:
        raise ValueError("images: there are none")
    kind = "array" if isinstance(images, np.ndarray) else "list"
    if isinstance(images, Tensor):
        kind = "tensor"
    shapes = [(*picture.shape,) for picture in pictures]
    index = index_of(flow, shapes, given_as=kind)
    file = io.BytesIO()
    write(file, flow, index, pictures, lambda _: None)
    return file.getvalue()


def decompress(flow: Flow, data: bytes) -> Images:
    """The array, tensor or list that `compress` was given; of a file a list of (C, H, W).

    ValueError: the data need another flow, or are none of `compress`. DamagedError: they have
    changed.
    """
    check_flow(flow)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"data: expected bytes of compress, got {type(data).__name__}")
    archive = Archive(io.BytesIO(data), "data")
    images, lost = list[Pixels](), 0
    for image in archive.pictures(flow, lambda _: None):
        if image is None:
            lost += 1
        else:
            images.append(image)
    if lost:
        raise DamagedError(f"data: damaged: {lost} of {archive.index.count} images are lost")
    if archive.index.given_as == "array":
        return np.stack(images)
    return torch.from_numpy(np.stack(images)) if archive.index.given_as == "tensor" else images


def file_bits_per_dim(flow: Flow, split: Split) -> float | None:
    """Bits/dim of an archive of a split's images, the first 1,024 of them at most; all its bytes.

    None: this flow has no integer form.
    """
    images = channels_first(split[: min(len(split), MOST)])
    shapes = [(*image.shape,) for image in images]
    file, index = io.BytesIO(), index_of(flow, shapes)
    with counter("compress", 2 * index.numbers) as advance:
        try:
            write(file, flow, index, images, advance)
        except ValueError:
            return None
    return 8 * len(file.getvalue()) / images.size


def check_flow(flow: Flow, name: str = "flow") -> None:
    """ValueError: the flow was made by `realnvp.fast`, or is of a table."""
    refuse_fast(flow, "compress with")
    if unit_of(config_of(flow)) is not BITS_PER_DIM:
        raise ValueError(f"{name}: is of a table; the codec is for images")


def _pixels(image: Pixels | Tensor, config: Config) -> Pixels:
    """An image as an array. ValueError: the flow does not take it."""
    pixels = image.numpy(force=True) if isinstance(image, Tensor) else np.asarray(image)
    levels, wanted = config.levels, pixel_type(config.levels)
    if pixels.dtype != wanted or pixels.ndim != 3 or not pixels.size:
        raise ValueError(
            f"images: expected {wanted} (C, H, W) each, got {pixels.dtype} of shape {pixels.shape}"
        )
    if len(pixels) not in (1, 3, config.shape[0]):
        raise ValueError(f"images: expected (C, H, W) with C of 1 or 3 each, got {pixels.shape}")
    if pixels.max() >= levels:
        raise ValueError(
            f"images: a pixel is {pixels.max()}, but the flow knows the levels 0 to {levels - 1}"
        )
    return pixels
