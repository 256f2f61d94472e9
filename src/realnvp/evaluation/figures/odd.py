"""Heat maps: where a picture is odd, in shares of normal places."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from realnvp.evaluation.figures.grids import (
    WORDS,
    Array,
    Picture,
    Pixels,
    beside,
    font,
    stacked,
)

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
    grey = Image.fromarray(np.broadcast_to(found.picture, (height, width, 3)).astype(np.uint8))
    strength = _strength(found.share)[..., None]
    over = (1 - SOFT * strength) * np.asarray(grey) + SOFT * strength * colours(strength[..., 0])
    plain, map_ = grey.resize(size), Image.fromarray(over.astype(np.uint8)).resize(size)
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


def colours(strength: Array) -> Array:
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
        (255 * (1 - SOFT * strength) + SOFT * strength * colours(column)).astype(np.uint8)
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
