"""Tiles as one picture file: the bits that the first images need, and tiles that WebP suits.

The file is a lossless WebP. Of 16 bits, which WebP lacks, it is a PNG.
"""

import io
import math
import struct
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from realnvp.data.dataset import Pixels, Shape
from realnvp.data.images import deep_png, lossless_webp

HEADER = 20  # bytes of a file that a further tile in it does not need
PICTURES = 1, 3  # channels of one
SMALL = 1 << 15  # pixels for which WebP's long search, up to .1 s, is worth its time
TINY = 1 << 10  # pixels of which a shorter search than usual finds files as small
RIFF = struct.Struct("<4sI4s4sI")

Search = Literal["quick", "usual", "long"]
Bits = npt.NDArray[np.float64]


def mosaic(tiles: Pixels, search: Search = "long") -> bytes:
    """The tiles, (N, C, h, w), side by side in rows, without what all such files begin with.

    Where C is neither 1 nor 3, each channel is a grey tile.
    search: for the smallest; never long where there are many.
    """
    if tiles.shape[1] not in PICTURES:
        tiles = tiles.reshape(-1, 1, *tiles.shape[2:])
    count, channels, height, width = tiles.shape
    rows, columns = _grid(count)
    # The last tile again fills the last row, at next to no cost.
    filled = tiles[np.minimum(np.arange(rows * columns), count - 1)]
    squares = filled.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    picture = squares.reshape(rows * height, columns * width, channels)
    many = picture[..., 0].size > SMALL
    return _file(picture, "usual" if many and search == "long" else search)


def from_mosaic(content: bytes, count: int, shape: Shape, dtype: np.dtype[Any]) -> Pixels:
    """The tiles, `count` of (C, h, w), of what `mosaic` gave. ValueError: it is something else."""
    from PIL import Image

    from realnvp.data.images import decode_image

    channels, height, width = shape
    if channels not in PICTURES:
        planes = from_mosaic(content, count * channels, (1, height, width), dtype)
        return planes.reshape(count, *shape)
    rows, columns = _grid(count)
    try:
        file = io.BytesIO(content if dtype == np.uint16 else _riff(content))
        with Image.open(file, formats=["PNG", "WEBP"]) as image:
            if image.size != (columns * width, rows * height):
                raise ValueError("of another size")
        picture = decode_image(file.getvalue(), "a mosaic")[..., :channels]
        squares = picture.reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise ValueError(f"a mosaic: {error}") from None
    return squares.reshape(rows * columns, *shape)[:count].astype(dtype)


def bytes_alone(tiles: Pixels, search: Search) -> Bits:
    """(N,): about how many bytes each of tiles, (N, C, h, w), takes among few others."""
    return np.array([max(1, len(mosaic(tile[None], search)) - HEADER) for tile in tiles], float)


def _grid(count: int) -> tuple[int, int]:
    columns = math.isqrt(count - 1) + 1
    return math.ceil(count / columns), columns


def _file(picture: Pixels, search: Search) -> bytes:
    """A picture (H, W, C), C of 1 or 3."""
    if picture.dtype == np.uint16:
        return deep_png(picture)
    tiny = picture[..., 0].size <= TINY
    # Without predictions (method 0) WebP finds what repeats itself, and takes next to no time.
    efforts: dict[Search, list[tuple[int, int]]] = {
        "quick": [(0, 75)] if tiny else [(0, 75), (1, 20)],
        "usual": [(0, 75), (3 if tiny else 4, 75)],
        "long": [(0, 100), (4, 100), (5, 100)],
    }
    found = min((_webp(picture, *effort) for effort in efforts[search]), key=len)
    if search == "long" and 8 * len(found) < picture[..., 0].size:
        found = min(found, _webp(picture, 6, 100), key=len)  # of other pictures it takes too long
    return found


def _webp(picture: Pixels, method: int, quality: int) -> bytes:
    content = lossless_webp(picture, method, quality)
    pixels = content[RIFF.size :][: RIFF.unpack_from(content)[-1]]
    assert content == _riff(pixels)
    return pixels


def _riff(pixels: bytes) -> bytes:
    """A lossless WebP file."""
    whole = pixels + bytes(len(pixels) % 2)
    return RIFF.pack(b"RIFF", len(whole) + 12, b"WEBP", b"VP8L", len(pixels)) + whole
