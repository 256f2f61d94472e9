"""Pictures of any size as tiles that a flow takes, and back."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from realnvp.data.dataset import Pixels, Shape

SMALLEST = 8  # side that is not halved
FLOW, RAW, HALVED = "frh"  # how a tile is coded: by the flow, as it is, in halves


class Tile(NamedTuple):
    """A part of a picture, (C', H, W), and the shape in which the flow sees it.

    picture: the picture's index.
    planes: channels of the picture. A color picture becomes three tiles for a flow of gray images;
        a gray one becomes three equal channels for a flow of colors.
    channels: of the flow's images.
    divisor: of the sides of the flow's images.
    """

    picture: int
    planes: slice
    rows: slice
    columns: slice
    channels: int
    divisor: int

    @property
    def shape(self) -> Shape:
        """The shape without the padding."""
        planes, rows, columns = self.planes, self.rows, self.columns
        return planes.stop - planes.start, rows.stop - rows.start, columns.stop - columns.start

    @property
    def padded(self) -> Shape:
        """(C, h, w) that the flow sees."""
        height, width = (-(-side // self.divisor) * self.divisor for side in self.shape[1:])
        return self.channels, height, width

    def inner(self, picture: Pixels) -> Pixels:
        """The tile of its picture, without the padding."""
        return picture[self.planes, self.rows, self.columns]

    def cut(self, picture: Pixels) -> Pixels:
        """The tile of its picture; the padding repeats the last channel, row and column."""
        missing = [(0, a - b) for a, b in zip(self.padded, self.shape, strict=True)]
        return np.pad(self.inner(picture), missing, mode="edge")

    def paste(self, tile: Pixels, picture: Pixels) -> None:
        """Put the tile, padded, into its picture."""
        channels, height, width = self.shape
        self.inner(picture)[:] = tile[:channels, :height, :width]

    def divided(self, height: int, width: int) -> Iterator["Tile"]:
        """The tile in parts of this size; smaller ones at the ends."""
        for rows in _parts(self.rows, height):
            for columns in _parts(self.columns, width):
                yield self._replace(rows=rows, columns=columns)

    def halves(self) -> list["Tile"]:
        """The tile in two, its longer side halved. []: it is one of the smallest."""
        _, height, width = self.shape
        longer = max(height, width)
        if longer <= max(SMALLEST, self.divisor):
            return []
        half = -(-longer // (2 * self.divisor)) * self.divisor
        return list(self.divided(*((half, width) if height == longer else (height, half))))


def tiles_of(
    pictures: Iterable[tuple[int, Shape]], channels: int, divisor: int, side: int
) -> list[Tile]:
    """The tiles of pictures, (index, (C', H, W)) each: equal padded shapes follow one another.

    channels, divisor: of the flow's images.
    side: of the tiles; smaller ones at the ends of a picture.
    """
    tiles = list[Tile]()
    for i, (planes, height, width) in pictures:
        for part in _parts(slice(0, planes), planes if planes == channels else 1):
            whole = Tile(i, part, slice(0, height), slice(0, width), channels, divisor)
            tiles += whole.divided(side, side)
    return sorted(tiles, key=lambda tile: tile.padded)


def _parts(whole: slice, size: int) -> list[slice]:
    ends = [*range(whole.start, whole.stop, size), whole.stop]
    return [slice(*ends[i : i + 2]) for i in range(len(ends) - 1)]


def leaves_of(tiles: Sequence[Tile], kinds: str) -> Iterator[tuple[Tile, str]]:
    """The parts of tiles that are coded in one piece, each with its kind.

    kinds: a tree of letters for each tile: h and two trees, or a kind.

    ValueError: the letters are not of these tiles.
    """
    letters, left = iter(kinds), list(reversed(tiles))
    while left:
        tile, letter = left.pop(), next(letters, "none")
        if letter == HALVED and (halves := tile.halves()):
            left.extend(reversed(halves))
        elif letter in (FLOW, RAW):
            yield tile, letter
        else:
            raise ValueError(f"kinds: {letter} for a tile of {tile.shape}")
    if next(letters, None):
        raise ValueError("kinds: more than the tiles")


def numbers_of(tiles: Iterable[Tile]) -> int:
    """Channels of all pixels of tiles, without the padding."""
    return sum(math.prod(tile.shape) for tile in tiles)
