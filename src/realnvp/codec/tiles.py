"""Pictures of any size as tiles that a flow takes, and back."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from realnvp.data.dataset import Pixels, Shape

SMALLEST = 8  # side that is not halved


class Tile(NamedTuple):
    """Where a tile lies in its picture, (C', H, W), and what the flow sees of it.

    planes: channels of the picture. A colour picture becomes three tiles for a flow of grey images;
    a grey one becomes three equal channels for a flow of colours.
    channels: that the flow sees.
    divisor: of the sides that it takes.
    """

    planes: slice
    rows: slice
    columns: slice
    channels: int
    divisor: int

    @property
    def shape(self) -> Shape:
        """Of the part of the picture that it is."""
        return (
            self.planes.stop - self.planes.start,
            self.rows.stop - self.rows.start,
            self.columns.stop - self.columns.start,
        )

    @property
    def padded(self) -> Shape:
        """(C, h, w) that the flow sees."""
        height, width = (-(-side // self.divisor) * self.divisor for side in self.shape[1:])
        return self.channels, height, width

    @property
    def numbers(self) -> int:
        """Channels of all its pixels, without the padding."""
        return math.prod(self.shape)

    def cut(self, picture: Pixels) -> Pixels:
        """The tile, padded, of a picture."""
        return self.pad(picture[self.planes, self.rows, self.columns])

    def paste(self, tile: Pixels, picture: Pixels) -> None:
        """Put the tile, padded, into the picture."""
        picture[self.planes, self.rows, self.columns] = self.inner(tile)

    def pad(self, part: Pixels) -> Pixels:
        """The padded tile: the last channel, row and column again."""
        missing = [(0, a - b) for a, b in zip(self.padded, self.shape, strict=True)]
        return np.pad(part, missing, mode="edge")

    def divided(self, height: int, width: int) -> Iterator["Tile"]:
        """The tile in parts of this size, or the smallest that the flow takes; less at the ends."""
        for rows in _parts(self.rows, max(height, self.divisor)):
            for columns in _parts(self.columns, max(width, self.divisor)):
                yield self._replace(rows=rows, columns=columns)

    def alone(self) -> "Tile":
        """The tile as if it was a picture of its own."""
        planes, rows, columns = (slice(0, length) for length in self.shape)
        return Tile(planes, rows, columns, self.channels, self.divisor)

    def halves(self) -> list["Tile"]:
        """The tile in two, its longer side halved. []: it is one of the smallest."""
        _, height, width = self.shape
        longer = max(height, width)
        if longer <= max(SMALLEST, self.divisor):
            return []
        half = -(-longer // (2 * self.divisor)) * self.divisor
        return list(self.divided(*((half, width) if height == longer else (height, half))))

    def inner(self, tile: Pixels) -> Pixels:
        """The padded tile without the padding."""
        channels, height, width = self.shape
        return tile[:channels, :height, :width]


def tiles_of(picture: Shape, channels: int, divisor: int, side: int) -> Iterator[Tile]:
    """The tiles of a picture, (C', H, W), for a flow of so many channels.

    divisor: of the sides that the flow takes.
    side: of the tiles; smaller ones at the ends.
    """
    planes, height, width = picture
    for these in _parts(slice(0, planes), planes if planes == channels else 1):
        whole = Tile(these, slice(0, height), slice(0, width), channels, divisor)
        yield from whole.divided(side, side)


def places_of(
    pictures: Iterable[Shape], channels: int, divisor: int, side: int
) -> Iterator[tuple[int, Tile]]:
    """The tiles of several pictures, each with the index of its picture."""
    for i, shape in enumerate(pictures):
        for tile in tiles_of(shape, channels, divisor, side):
            yield i, tile


def count_tiles(picture: Shape, channels: int, divisor: int, side: int) -> int:
    """How many tiles a picture has."""
    planes, height, width = picture
    side = max(side, divisor)
    return (1 if planes == channels else planes) * -(-height // side) * -(-width // side)


def _parts(whole: slice, size: int) -> list[slice]:
    ends = [*range(whole.start, whole.stop, size), whole.stop]
    return [slice(*ends[i : i + 2]) for i in range(len(ends) - 1)]


def by_shape(places: Sequence[Tile], wanted: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Indices of the wanted tiles, those of one padded shape together."""
    groups: dict[Shape, list[int]] = {}
    for i in np.flatnonzero(wanted).tolist():
        groups.setdefault(places[i].padded, []).append(i)
    return [groups[shape] for shape in sorted(groups)]
