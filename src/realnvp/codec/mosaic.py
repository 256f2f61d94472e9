"""Tiles as one lossless WebP: the bits that the first images need, and tiles that WebP suits."""

import io
import math
import struct

import numpy as np

from realnvp.data.dataset import Pixels

SMALL = 1 << 14  # pixels for which WebP's slowest search is worth its time
RIFF = struct.Struct("<4sI4s4sI")
HEADER = 40  # bytes of a file that a further tile in it does not need


def webp(tiles: Pixels) -> bytes:
    """The tiles, (N, C, h, w) with C of 1 or 3, side by side in rows, as a lossless WebP.

    What all such files begin with is left out.
    """
    count, _, height, width = tiles.shape
    rows, columns = _grid(count)
    # The last tile again fills the last row, at next to no cost.
    filled = tiles[np.minimum(np.arange(rows * columns), count - 1)]
    squares = np.broadcast_to(filled, (rows * columns, 3, height, width))
    squares = squares.reshape(rows, columns, 3, height, width).transpose(0, 3, 1, 4, 2)
    picture = squares.reshape(rows * height, columns * width, 3)
    content = _saved(picture, thorough=rows * columns * height * width <= SMALL)
    pixels = content[RIFF.size :][: RIFF.unpack_from(content)[-1]]
    assert content == _riff(pixels)
    return pixels


def from_webp(content: bytes, count: int, shape: tuple[int, int, int]) -> Pixels:
    """The tiles, `count` of (C, h, w), of what `webp` gave. ValueError: it is something else."""
    from PIL import Image

    channels, height, width = shape
    rows, columns = _grid(count)
    try:
        with Image.open(io.BytesIO(_riff(content)), formats=["WEBP"]) as image:
            if image.size != (columns * width, rows * height):
                raise ValueError("of another size")
            picture = np.asarray(image.convert("RGB"))
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise ValueError(f"a WebP: {error}") from None
    squares = picture.reshape(rows, height, columns, width, 3).transpose(0, 2, 4, 1, 3)
    return squares.reshape(rows * columns, 3, height, width)[:count, :channels]


def webp_bits(tile: Pixels) -> float:
    """About how many bits a tile, (C, h, w), takes among others in a WebP."""
    picture = np.broadcast_to(tile, (3, *tile.shape[1:])).transpose(1, 2, 0)
    return 8.0 * max(1, len(_saved(picture, thorough=False)) - HEADER)


def _riff(pixels: bytes) -> bytes:
    """A lossless WebP file."""
    whole = pixels + bytes(len(pixels) % 2)
    return RIFF.pack(b"RIFF", len(whole) + 12, b"WEBP", b"VP8L", len(pixels)) + whole


def _grid(count: int) -> tuple[int, int]:
    columns = math.isqrt(count - 1) + 1
    return math.ceil(count / columns), columns


def _saved(picture: Pixels, *, thorough: bool) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    effort = {"quality": 100, "method": 6} if thorough else {"quality": 75, "method": 4}
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "WEBP", lossless=True, **effort)
    return file.getvalue()
