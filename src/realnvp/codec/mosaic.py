"""Tiles as one picture file: the bits that the first images need, and tiles that WebP suits.

The file is a lossless WebP. Of 16 bits, which WebP lacks, it is a PNG.
"""

import io
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from realnvp.data.dataset import Pixels, Shape
from realnvp.data.deep_png import deep_png

HEADER = 20  # bytes of a file that a further tile in it does not need
PICTURES = 1, 3  # channels of one
SMALL = 1 << 15  # pixels for which WebP's slowest search, .3 s, is worth its time
TINY = 1 << 10  # pixels of which a quicker search finds files as small
RIFF = struct.Struct("<4sI4s4sI")


def mosaic(tiles: Pixels, *, thorough: bool = True) -> bytes:
    """The tiles, (N, C, h, w), side by side in rows, without what all such files begin with.

    Where C is neither 1 nor 3, each channel is a grey tile.
    thorough: search long for the smallest, unless there are many.
    """
    if tiles.shape[1] not in PICTURES:
        tiles = tiles.reshape(-1, 1, *tiles.shape[2:])
    count, channels, height, width = tiles.shape
    rows, columns = _grid(count)
    # The last tile again fills the last row, at next to no cost.
    filled = tiles[np.minimum(np.arange(rows * columns), count - 1)]
    squares = filled.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    picture = squares.reshape(rows * height, columns * width, channels)
    return _file(picture, thorough=thorough and picture[..., 0].size <= SMALL)


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
        file.seek(0)
        picture = decode_image(file, "a mosaic")[..., :channels]
        squares = picture.reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise ValueError(f"a mosaic: {error}") from None
    return squares.reshape(rows * columns, *shape)[:count].astype(dtype)


def tile_bits(tiles: Pixels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(N,) each: about how many bits tiles, (N, C, h, w), take among few others, and among all."""
    alone = np.array([len(mosaic(tile[None], thorough=False)) for tile in tiles])
    together = len(mosaic(tiles, thorough=False))
    few = 8.0 * np.maximum(1, alone - HEADER)
    return few, np.minimum(few, 8 * together * alone / alone.sum())


def _grid(count: int) -> tuple[int, int]:
    columns = math.isqrt(count - 1) + 1
    return math.ceil(count / columns), columns


def _file(picture: Pixels, *, thorough: bool) -> bytes:
    """A picture (H, W, C), C of 1 or 3."""
    from PIL import Image

    if picture.dtype == np.uint16:
        return deep_png(picture)
    file = io.BytesIO()
    effort: dict[str, Any] = (
        {"quality": 100, "method": 6}
        if thorough
        else {"quality": 75, "method": 3 if picture[..., 0].size <= TINY else 4}
    )
    colours = np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
    Image.fromarray(colours).save(file, "WEBP", lossless=True, **effort)
    content = file.getvalue()
    pixels = content[RIFF.size :][: RIFF.unpack_from(content)[-1]]
    assert content == _riff(pixels)
    return pixels


def _riff(pixels: bytes) -> bytes:
    """A lossless WebP file."""
    whole = pixels + bytes(len(pixels) % 2)
    return RIFF.pack(b"RIFF", len(whole) + 12, b"WEBP", b"VP8L", len(pixels)) + whole
