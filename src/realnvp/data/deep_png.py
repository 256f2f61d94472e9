"""PNG files of 16 bits per channel: of colour, Pillow writes none."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

KINDS = {1: 0, 3: 2, 4: 6}  # channels to PNG's colour type: grey, RGB, RGBA


def deep_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of (H, W, C) with 1, 3 or 4 channels (PNG specification, third edition, section 11)."""
    height, width, channels = pixels.shape
    # Each row begins with its filter; 0: none.
    rows = np.zeros((height, 1 + 2 * width * channels), np.uint8)
    rows[:, 1:] = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 16, KINDS[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, data)
        for name, data in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
