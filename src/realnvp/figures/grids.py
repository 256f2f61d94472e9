"""Grids of images with exact pixels, by Pillow."""

import base64
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from realnvp.io.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = "Image"
Array = NDArray[Any]
TITLE, TEXT = 18, 14  # height of letters, in pixels
GAP, RED, MARGIN = 2, 4, 8  # white between images, width of a red border, white around the whole
DPI = 150


def side_by_side(path: Path, panels: Mapping[str, Array], *, levels: int) -> None:
    """Write a PNG with a grid for each panel, (N, H, W, C), under its title (figure 5)."""
    save_png(path, joined([grid(each, levels=levels, title=t) for t, each in panels.items()]))


def grid(
    images: Array,
    *,
    levels: int,
    columns: int | None = None,
    side: int = 64,
    title: str = "",
    above: Sequence[str] = (),
    left: Sequence[str] = (),
    under: Sequence[str] = (),
    red: Collection[tuple[int, int]] = (),
) -> Picture:
    """Images in rows, (N, H, W, C), of 0 to levels - 1.

    columns: None: about as many as rows.
    side: each pixel becomes k x k, so that an image is about this high.
    above, left, under: texts above each column, left of each row, under each image.
    red: (row, column) of the images with a red border.
    """
    from PIL import Image, ImageDraw

    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = -(-len(images) // columns)
    k = max(1, round(side / max(images.shape[1:3])))
    scaled = np.rint(images * (255.0 / (levels - 1))).astype(np.uint8).repeat(k, 1).repeat(k, 2)
    cells = np.broadcast_to(scaled, (*scaled.shape[:3], 3))
    height, width = cells.shape[1:3]
    border = RED if red else 0
    across, down = width + 2 * border + GAP, height + 2 * border + GAP + (20 if under else 0)
    letters, large = _font(TEXT), _font(TITLE)
    start = max((round(letters.getlength(text)) + 14 for text in left), default=0)
    top = (28 if title else 0) + (22 if above else 0)
    wide = max(start + columns * across - GAP, math.ceil(large.getlength(title)))
    sheet = Image.new("RGB", (wide, top + rows * down - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((start, 4), title, fill="black", font=large)

    def write(x: float, y: float, text: str, anchor: str) -> None:
        draw.text((x, y), text, fill="black", font=letters, anchor=anchor)

    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        x, y = start + column * across + border, top + row * down + border
        if (row, column) in red:
            corners = (x - RED, y - RED, x + width + RED - 1, y + height + RED - 1)
            draw.rectangle(corners, fill="#d62728")
        sheet.paste(Image.fromarray(cell), (x, y))
        if under:
            write(x + width / 2, y + height + border + 2, under[i], "ma")
    for column, text in enumerate(above):
        write(start + column * across + border + width / 2, top - 4, text, "mb")
    for row, text in enumerate(left):
        write(start - 8, top + row * down + border + height / 2, text, "rm")
    return sheet


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def joined(pictures: Sequence[Picture], *, down: bool = False, gap: int = 24) -> Picture:
    """The pictures from left to right, or down, aligned at their upper or left edges."""
    from PIL import Image

    lengths = [picture.height if down else picture.width for picture in pictures]
    breadth = max(picture.width if down else picture.height for picture in pictures)
    total = sum(lengths) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (breadth, total) if down else (total, breadth), "white")
    at = 0
    for picture, length in zip(pictures, lengths, strict=True):
        sheet.paste(picture, (0, at) if down else (at, 0))
        at += length + gap
    return sheet


def save_png(path: Path, picture: Picture) -> None:
    """Write a PNG with a white margin, atomically."""
    with atomic_write(path) as file:
        file.write(_png(picture))


def base64_png(picture: Picture) -> str:
    """A PNG with a white margin, in base64 for HTML."""
    return base64.b64encode(_png(picture)).decode()


def _png(picture: Picture) -> bytes:
    from PIL import ImageOps

    content = io.BytesIO()
    framed = ImageOps.expand(picture, MARGIN, "white")
    framed.save(content, "PNG", optimize=True, dpi=(DPI, DPI))
    return content.getvalue()
