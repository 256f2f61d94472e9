"""The first tiles of a chunk are halved until the bits that each borrows are there."""

from collections.abc import Iterable, Iterator, Sequence
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


def leaves_of(places: Sequence[Tile], kinds: str) -> list[Leaf]:
    """The leaves of tiles, each tile a tree of letters: h, two trees more; or a kind.

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
        parts = place.halves()
        if not parts:
            raise ValueError("it halves a tile that is too small")
        for part in parts:
            yield from tree(i, part)

    leaves = [leaf for i, place in enumerate(places) for leaf in tree(i, place.alone())]
    if next(letters, None):
        raise ValueError("it is not of these tiles")
    return leaves


def first_leaves(whole: Iterable[Leaf], numbers: int) -> Iterator[Leaf]:
    """The first leaves of tiles, as large as can be, of about so many numbers together.

    The last one is at most as large as what is left, if it can be halved so far.

    numbers: channels of all pixels.
    """
    for leaf in whole:
        if numbers <= 0:
            return
        part = leaf
        while part.place.numbers > numbers and (parts := part.place.halves()):
            part = Leaf(leaf.tile, parts[0])
        yield part
        if part != leaf:
            return
        numbers -= part.place.numbers
