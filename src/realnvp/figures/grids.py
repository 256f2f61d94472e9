"""Heat maps: where a picture is odd, in shares of normal places."""

import io
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from realnvp.io.files import atomic_write

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
    with atomic_write(path) as file:
        file.write(content.getvalue())


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


DECADES = 4
"""From white, a share of 1, to the strongest colour, a share of 10^-4."""
SIDE = 256  # of the smallest pictures shown
BAR = 16
LEAST_BAR = 10 * WORDS  # two lines beside each decade
SMALLEST = 6  # of a box, as it is shown
SOFT = 0.85  # of the colour, over the picture


class HeatMap(NamedTuple):
    """A picture and where it is odd."""

    words: str
    picture: Pixels
    """uint8 (H, W, C)."""
    share: Array
    """(H, W): the share of normal places that are odder."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom."""


def heat_map(found: HeatMap, *, side: int = SIDE) -> Picture:
    """The picture, the picture under its map with the box, and a bar of colours.

    side: about how wide each panel is.
    """
    from PIL import Image, ImageDraw

    height, width = found.share.shape
    scale = side / max(height, width)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    gray = Image.fromarray(np.broadcast_to(found.picture, (height, width, 3)).astype(np.uint8))
    strength = _strength(found.share)[..., None]
    over = (1 - SOFT * strength) * np.asarray(gray) + SOFT * strength * colors(strength[..., 0])
    plain, map_ = gray.resize(size), Image.fromarray(over.astype(np.uint8)).resize(size)
    (left, right), (top, bottom) = (
        _shown(found.box[axis], found.box[axis + 2], scale, size[axis]) for axis in (0, 1)
    )
    ImageDraw.Draw(map_).rectangle((left, top, right - 1, bottom - 1), outline="#00c8ff", width=2)
    panels = beside([plain, map_, _bar(max(size[1], LEAST_BAR))], gap=8)
    sheet = Image.new("RGB", (panels.width, panels.height + WORDS + 8), "white")
    sheet.paste(panels, (0, WORDS + 8))
    ImageDraw.Draw(sheet).text((0, 0), found.words, fill="black", font=font(WORDS, found.words))
    return sheet


def contact_sheet(found: Sequence[HeatMap], *, columns: int = 2, side: int = 192) -> Picture:
    """The heat maps in rows, as they come."""
    cells = [heat_map(one, side=side) for one in found]
    rows = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    return stacked([beside(row) for row in rows], gap=12)


def _shown(start: int, end: int, scale: float, length: int) -> tuple[int, int]:
    """A side of a box on a picture shown at a scale: seen however large the picture is."""
    first = max(0, min(round(scale * start), length - SMALLEST))
    return first, max(first + SMALLEST, round(scale * end))


def colors(strength: Array) -> Array:
    """(..., 3), 0 to 255: yellow, red, black-violet by strength, 0 to 1."""
    stops = [0, 0.35, 0.7, 1]
    channels = ([255, 253, 214, 90], [240, 174, 40, 0], [180, 60, 40, 80])
    return np.stack([np.interp(strength, stops, channel) for channel in channels], -1)


def _strength(share: Array) -> Array:
    return np.clip(-np.log10(np.maximum(share, 1e-12)) / DECADES, 0, 1)


def _bar(height: int) -> Picture:
    """The colours with the shares that they stand for."""
    from PIL import Image, ImageDraw

    column = np.linspace(1, 0, height - WORDS)[:, None].repeat(BAR, 1)
    strength = column[..., None]
    bar = Image.fromarray(
        (255 * (1 - SOFT * strength) + SOFT * strength * colors(column)).astype(np.uint8)
    )
    sheet = Image.new("RGB", (150, height), "white")
    sheet.paste(bar, (0, WORDS // 2))
    draw = ImageDraw.Draw(sheet)
    for decade, words in enumerate(("all", "10 %", "1 %", ".1 %", ".01 % of normal")):
        at = WORDS // 2 + round((1 - decade / DECADES) * (bar.height - 1))
        draw.text((BAR + 6, at), words, fill="black", font=font(WORDS - 2), anchor="lm")
    draw.text(
        (BAR + 6, WORDS // 2 + WORDS),
        "places odder",
        fill="black",
        font=font(WORDS - 2),
        anchor="lm",
    )
    return sheet
