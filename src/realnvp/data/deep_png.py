"""PNG files of 16 bits per channel: of colour, Pillow writes none."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
KINDS = {1: 0, 3: 2, 4: 6}  # channels to PNG's colour type: grey, RGB, RGBA


def deep_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of (H, W, C) with 1, 3 or 4 channels (PNG specification, third edition, section 11)."""
    height, width, channels = pixels.shape
    rows = _filtered(
        np.frombuffer(pixels.astype(">u2").tobytes(), np.uint8).reshape(height, -1), 2 * channels
    )
    header = struct.pack(">IIBBBBB", width, height, 16, KINDS[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, data)
        for name, data in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def _filtered(raw: Bytes, pixel: int) -> Bytes:
    """The rows, each after the number of its filter: none, the pixel to the left, the row above.

    The filter whose bytes, as signed, have the least sum of absolute values (section 12.7).
    """
    left, above = raw.copy(), raw.copy()
    left[:, pixel:] -= raw[:, :-pixel]
    above[1:] -= raw[:-1]
    all_three = np.stack([raw, left, above])
    best = abs(all_three.view(np.int8).astype(np.int64)).sum(-1).argmin(0)
    rows = all_three[best, np.arange(len(raw))]
    return np.concatenate([best[:, None].astype(np.uint8), rows], axis=1)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
