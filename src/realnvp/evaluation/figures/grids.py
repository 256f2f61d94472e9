"""Grids of images with few words on them, by Pillow."""

import io
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from realnvp.files.atomic import atomic_save

if TYPE_CHECKING:
    import PIL.Image

Picture: TypeAlias = "PIL.Image.Image"
Pixels = NDArray[np.uint8]
Array = NDArray[Any]
TITLE, WORDS = 18, 14  # height of letters, in pixels
GAP, RED, MARGIN = 2, 4, 8  # white between images, width of a red border, white around the whole
DOTS_PER_INCH = 150


def data_beside_samples(path: Path, data: Pixels, samples: Pixels, *, levels: int) -> None:
    """Write a PNG with images of the data on the left and samples on the right (figure 5).

    data, samples: uint8 (N, H, W, C).
    """
    side_by_side(path, {"data": data, "samples": samples}, levels=levels)


def side_by_side(path: Path, panels: Mapping[str, Pixels], *, levels: int) -> None:
    """Write a PNG with a grid for each panel, uint8 (N, H, W, C), under its caption."""
    save_png(
        path,
        beside([grid(images, levels=levels, title=caption) for caption, images in panels.items()]),
    )


def grid(
    images: Pixels,
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
    """Images in rows, with few words.

    images: uint8 (N, H, W, C).
    levels: grey levels of a pixel.
    columns: None: about as many as rows.
    side: each pixel is k x k, so that an image is about this high.
    title: words above the grid.
    above, left, under: words above each column, left of each row, under each image.
    red: the (row, column) of images with a red border.
    """
    from PIL import Image, ImageDraw

    cells = _displayable(images, levels, side)
    columns = columns or int(np.ceil(np.sqrt(len(cells))))
    body = _cells(cells, columns, under=under, red=red)
    top = (TITLE + 10 if title else 0) + (WORDS + 8 if above else 0)
    start = max((round(font(WORDS, word).getlength(word)) + 14 for word in left), default=0)
    sheet = Image.new("RGB", (start + body.width, top + body.height), "white")
    sheet.paste(body, (start, top))
    draw = ImageDraw.Draw(sheet)
    draw.text((start, 4), title, fill="black", font=font(TITLE, title))
    for column, words in enumerate(above):
        middle = start + (column + 0.5) * body.width / columns
        draw.text((middle, top - 4), words, fill="black", font=font(WORDS, words), anchor="mb")
    for row, words in enumerate(left):
        middle = top + row * body.height / len(left) + cells.shape[1] / 2
        draw.text((start - 8, middle), words, fill="black", font=font(WORDS, words), anchor="rm")
    return sheet


def _cells(
    cells: Pixels, columns: int, *, under: Sequence[str], red: Collection[tuple[int, int]]
) -> Picture:
    """The images of a grid, (N, H, W, 3), with the words under each, some with a red border."""
    from PIL import Image, ImageDraw

    _, height, width, _ = cells.shape
    margin = RED if red else 0
    across, down = width + 2 * margin + GAP, height + 2 * margin + GAP + (WORDS + 6 if under else 0)
    sheet = Image.new(
        "RGB", (columns * across - GAP, -(-len(cells) // columns) * down - GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        x, y = column * across + margin, row * down + margin
        if (row, column) in red:
            draw.rectangle(
                (x - RED, y - RED, x + width + RED - 1, y + height + RED - 1), fill="#d62728"
            )
        sheet.paste(Image.fromarray(cell), (x, y))
        if under:
            draw.text(
                (x + width / 2, y + height + 2),
                under[i],
                fill="black",
                font=font(WORDS, under[i]),
                anchor="ma",
            )
    return sheet


def beside(pictures: Sequence[Picture], *, gap: int = 24) -> Picture:
    """The pictures from left to right, their upper edges in line."""
    return _joined(pictures, gap, across=True)


def stacked(pictures: Sequence[Picture], *, gap: int = 24) -> Picture:
    """The pictures from top to bottom, their left edges in line."""
    return _joined(pictures, gap, across=False)


def save_png(path: Path, picture: Picture, *, optimize: bool = True) -> None:
    """Write a PNG with a white margin, whole or not at all.

    optimize: a tenth fewer bytes, in up to ten times the time.
    """
    from PIL import ImageOps

    content = io.BytesIO()
    ImageOps.expand(picture, MARGIN, "white").save(
        content, "PNG", optimize=optimize, dpi=(DOTS_PER_INCH, DOTS_PER_INCH)
    )
    atomic_save(path, lambda file: file.write(content.getvalue()), size=content.tell())


def _joined(pictures: Sequence[Picture], gap: int, *, across: bool) -> Picture:
    from PIL import Image

    lengths = [picture.width if across else picture.height for picture in pictures]
    breadth = max(picture.height if across else picture.width for picture in pictures)
    total = sum(lengths) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (total, breadth) if across else (breadth, total), "white")
    at = 0
    for picture, length in zip(pictures, lengths, strict=True):
        sheet.paste(picture, (at, 0) if across else (0, at))
        at += length + gap
    return sheet


def _displayable(images: Pixels, levels: int, side: int) -> Pixels:
    """(N, kH, kW, 3) with 256 levels, each pixel k x k so that small images can be seen."""
    k = max(1, round(side / max(images.shape[1:3])))
    scaled = np.rint(images * (255.0 / (levels - 1))).astype(np.uint8)
    return np.broadcast_to(
        scaled.repeat(k, 1).repeat(k, 2), (len(images), images.shape[1] * k, images.shape[2] * k, 3)
    )


def font(size: int, words: str = "") -> Any:
    """A font of this height in pixels that has the letters of the words.

    Pillow's own has English letters. For others matplotlib's, DejaVu Sans, where it is installed.
    """
    from PIL import ImageFont

    if not words.isascii():
        with suppress(ImportError):
            from matplotlib import get_data_path

            return ImageFont.truetype(str(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size)
    return ImageFont.load_default(size)
