"""The first tiles of a chunk are halved until the bits that each borrows are there."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from realnvp.codec.tiles import Tile

FLOW, WEBP, RAW = KINDS = "fwr"  # how a leaf is coded
HALVED = "h"


class Leaf(NamedTuple):
    """What is coded in one piece: a tile, or a half of a half ... of it.

    tile: its index.
    place: in the tile's pixels without the padding.
    """

    tile: int
    place: Tile
    kind: str = WEBP


def leaves_of(places: Sequence[Tile], kinds: str, divisor: int) -> list[Leaf]:
    """The leaves of tiles, each tile a tree of letters: h, two trees more; or a kind.

    divisor: of the sides that the flow takes.

    ValueError: the letters are not of these tiles.
    """
    letters = iter(kinds)

    def tree(i: int, place: Tile) -> Iterator[Leaf]:
        letter = next(letters, "none")
        if letter != HALVED:
            if letter not in list(KINDS):
                raise ValueError("it is not of these tiles")
            yield Leaf(i, place, letter)
            return
        parts = place.halves(divisor)
        if not parts:
            raise ValueError("it halves a tile that is too small")
        for part in parts:
            yield from tree(i, part)

    leaves = [leaf for i, place in enumerate(places) for leaf in tree(i, place.alone())]
    if next(letters, None):
        raise ValueError("it is not of these tiles")
    return leaves


def smallest_leaves(i: int, place: Tile, divisor: int) -> Iterator[Leaf]:
    """The leaves of tile i where everything is halved."""
    parts = place.halves(divisor)
    if not parts:
        yield Leaf(i, place)
    for part in parts:
        yield from smallest_leaves(i, part, divisor)
