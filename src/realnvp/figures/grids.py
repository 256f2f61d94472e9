"""Pictures by Pillow: grids of images with exact pixels, and heat maps."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from realnvp.io.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = "Image"
Pixels = NDArray[Any]
Array = NDArray[Any]
TITLE, TEXT = 18, 14  # height of letters, in pixels
GAP, RED, MARGIN = 2, 4, 8  # white between images, width of a red border, white around the whole
DPI = 150
DECADES = 4  # from white, a fraction of 1, to the darkest color, a fraction of 1e-4
OPACITY = 0.85  # of the darkest color over the picture
MIN_BOX = 6  # side of a box, in pixels of the heat map
LEGEND = ("100 %", "10 %", "1 %", "0.1 %", "0.01 %")


def side_by_side(path: Path, panels: Mapping[str, Pixels], *, levels: int) -> None:
    """Write a PNG with a grid for each panel, uint8 (N, H, W, C), under its title (figure 5)."""
    grids = [grid(images, levels=levels, title=title) for title, images in panels.items()]
    save_png(path, beside(grids))


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
    start = max((round(font(TEXT, text).getlength(text)) + 14 for text in left), default=0)
    top = (28 if title else 0) + (22 if above else 0)
    wide = max(start + columns * across - GAP, math.ceil(font(TITLE, title).getlength(title)))
    sheet = Image.new("RGB", (wide, top + rows * down - GAP), "white")
    draw = ImageDraw.Draw(sheet)

    def write(x: float, y: float, text: str, anchor: str) -> None:
        draw.text((x, y), text, fill="black", font=font(TEXT, text), anchor=anchor)

    draw.text((start, 4), title, fill="black", font=font(TITLE, title))
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


def beside(pictures: Sequence[Picture], *, gap: int = 24) -> Picture:
    """The pictures from left to right, their upper edges aligned."""
    return _joined(pictures, gap, across=True)


def stacked(pictures: Sequence[Picture], *, gap: int = 24) -> Picture:
    """The pictures from top to bottom, their left edges aligned."""
    return _joined(pictures, gap, across=False)


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


def png(picture: Picture, *, optimize: bool = True) -> bytes:
    """Encode a picture with a white margin.

    optimize: a tenth fewer bytes, in up to ten times the time.
    """
    from PIL import ImageOps

    content = io.BytesIO()
    framed = ImageOps.expand(picture, MARGIN, "white")
    framed.save(content, "PNG", optimize=optimize, dpi=(DPI, DPI))
    return content.getvalue()


def save_png(path: Path, picture: Picture, *, optimize: bool = True) -> None:
    """Write a PNG with a white margin, atomically."""
    content = png(picture, optimize=optimize)
    with atomic_write(path) as file:
        file.write(content)


def font(size: int, text: str = "") -> Any:
    """A font of this height: Pillow's own, or matplotlib's DejaVu Sans if the text is not ASCII."""
    from PIL import ImageFont

    if not text.isascii():
        with suppress(ImportError):
            from matplotlib import get_data_path

            return ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
    return ImageFont.load_default(size)


class HeatMap(NamedTuple):
    """An image and where it is anomalous."""

    caption: str
    picture: Pixels
    """uint8 (H, W, C)."""
    fraction: Array
    """(H, W): fraction of normal patches that are more anomalous."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom."""


def heat_map(found: HeatMap, *, side: int = 256) -> Picture:
    """The image, the image under its map with the box, and the legend.

    side: the longer side of each panel.
    """
    return beside([_panels(found, side), _legend()], gap=12)


def contact_sheet(maps: Sequence[HeatMap], *, columns: int = 2, side: int = 192) -> Picture:
    """Heat maps in rows, with one legend."""
    cells = [_panels(found, side) for found in maps]
    rows = [beside(cells[at : at + columns]) for at in range(0, len(cells), columns)]
    return beside([stacked(rows, gap=12), _legend()])


def _panels(found: HeatMap, side: int) -> Picture:
    from PIL import Image, ImageDraw

    height, width = found.fraction.shape
    scale = side / max(height, width)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    strength = -np.log10(found.fraction.clip(10.0**-DECADES, 1))[..., None] / DECADES
    pixels = np.broadcast_to(found.picture, (height, width, 3)).astype(np.uint8)
    plain = Image.fromarray(pixels).resize(size)
    overlay = Image.fromarray(_blend(pixels, strength)).resize(size)
    box = [round(scale * edge) for edge in found.box]
    for axis in (0, 1):  # a tiny box stays visible
        box[axis] = max(0, min(box[axis], size[axis] - MIN_BOX))
        box[axis + 2] = max(box[axis] + MIN_BOX, box[axis + 2]) - 1
    ImageDraw.Draw(overlay).rectangle(box, outline="#00c8ff", width=2)
    panels = beside([plain, overlay], gap=8)
    letters = font(TEXT, found.caption)
    wide = max(panels.width, math.ceil(letters.getlength(found.caption)))
    sheet = Image.new("RGB", (wide, panels.height + TEXT + 8), "white")
    sheet.paste(panels, (0, TEXT + 8))
    ImageDraw.Draw(sheet).text((0, 0), found.caption, fill="black", font=letters)
    return sheet


def colors(strength: Array) -> Array:
    """(..., 3), 0 to 255: yellow, red, violet by strength, 0 to 1."""
    stops = [0, 0.35, 0.7, 1]
    channels = ([255, 253, 214, 90], [240, 174, 40, 0], [180, 60, 40, 80])
    return np.stack([np.interp(strength, stops, channel) for channel in channels], -1)


def _blend(pixels: Array, strength: Array) -> Pixels:
    """Pixels (..., 3) under the color of each strength (..., 1)."""
    over = OPACITY * strength
    return ((1 - over) * pixels + over * colors(strength[..., 0])).astype(np.uint8)


def _legend(height: int = 150) -> Picture:
    """The color bar of heat maps."""
    from PIL import Image, ImageDraw

    strength = np.broadcast_to(np.linspace(1, 0, height)[:, None, None], (height, 16, 1))
    sheet = Image.new("RGB", (125, height + 56), "white")
    bar = Image.fromarray(_blend(np.full((height, 16, 3), 255), strength))
    sheet.paste(bar, (1, 48))
    draw, letters = ImageDraw.Draw(sheet), font(TEXT - 2)
    draw.text((0, 0), "normal patches that\nare more anomalous", fill="black", font=letters)
    draw.rectangle((0, 47, 17, height + 48), outline="#888888")
    for decade, text in enumerate(LEGEND):
        y = 48 + (1 - decade / DECADES) * (height - 1)
        draw.text((24, y), text, fill="black", font=letters, anchor="lm")
    return sheet
