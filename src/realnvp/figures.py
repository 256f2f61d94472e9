"""Pictures. The only module that draws."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def data_beside_samples(
    path: Path, data: Pixels, samples: Pixels, *, levels: int, captions: tuple[str, str] = ("data", "samples")
) -> None:
    """Write a PNG with images of the data on the left and samples of the model on the right (figure 5 of the paper).

    data, samples: uint8 (N, H, W, C).
    """
    left, right = (_grid(_displayable(images, levels)) for images in (data, samples))
    height = max(left.shape[0], right.shape[0])
    gap = 24
    sheet = _sheet(height + 28, left.shape[1] + gap + right.shape[1])
    for grid, caption, column in ((left, captions[0], 0), (right, captions[1], left.shape[1] + gap)):
        _paste(sheet, grid, caption, column)
    sheet.save(path, optimize=True)


def samples_only(path: Path, samples: Pixels, *, levels: int) -> None:
    """Write a PNG with a grid of samples, uint8 (N, H, W, C)."""
    from PIL import Image

    Image.fromarray(_grid(_displayable(samples, levels))).save(path, optimize=True)


def _displayable(images: Pixels, levels: int) -> Pixels:
    """(N, kH, kW, 3) with 256 levels, each pixel k x k so that small images can be seen."""
    k = max(1, round(64 / max(images.shape[1:3])))
    scaled = np.rint(images * (255.0 / (levels - 1))).astype(np.uint8)
    return np.broadcast_to(scaled.repeat(k, 1).repeat(k, 2), (len(images), images.shape[1] * k, images.shape[2] * k, 3))


def _grid(images: Pixels, *, gap: int = 2) -> Pixels:
    """One image of them all, about square, white between them."""
    count, height, width, _ = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def _sheet(height: int, width: int) -> Any:
    from PIL import Image

    return Image.new("RGB", (width, height), "white")


def _paste(sheet: Any, grid: Pixels, caption: str, column: int) -> None:
    from PIL import Image, ImageDraw, ImageFont

    ImageDraw.Draw(sheet).text((column, 4), caption, fill="black", font=ImageFont.load_default(16))
    sheet.paste(Image.fromarray(grid), (column, 28))
