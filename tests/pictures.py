"""Picture files for tests to read."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def color(height: int = 8, width: int = 8) -> Image.Image:
    """Noise, RGB."""
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pictures(folder: Path, count: int = 10) -> Path:
    """The folder, with so many more pictures in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        color().save(folder / f"{number:02}.png")
    return folder


def png(path: Path, side: int, depth: int) -> None:
    """A PNG of RGB with a huge header and next to nothing behind it."""
    rows = b"".join(b"\0" + RNG.bytes(8 * 6) for _ in range(8))
    head = struct.pack(">IIBBBBB", side, side, depth, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
