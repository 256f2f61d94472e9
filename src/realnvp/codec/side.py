"""The side of the tiles: a large tile's pixels see more, if the flow has learned to use it."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from realnvp.codec.choice import flow_bits
from realnvp.codec.tiles import Tile, count_tiles, places_of
from realnvp.data.dataset import Pixels, Shape
from realnvp.flows.flow import Flow, config_of

SIDES = (32, 64, 128, 256)
FEWEST = 8  # tiles that the pictures must have
ONE_OF = 32  # tiles is looked at
MOST = 4 * 256 * 256  # pixels of all that are

Look = Callable[[int], Pixels]
Cut = tuple[Tile, Pixels]  # a tile, and its picture


def best_side(flow: Flow, shapes: Sequence[Shape], look: Look, borrowed: float) -> int:
    """The side of tiles that takes the fewest bits by the flow.

    A sample of the pictures says how many bits tiles of each side take.

    shapes: (C, H, W) of the pictures.
    look: gives a picture by its number.
    borrowed: bits, by a number.
    """
    channels, divisor = config_of(flow).shape[0], flow.divisor
    look = lru_cache(maxsize=1)(look)  # several tiles are of one picture
    longest = max(max(height, width) for _, height, width in shapes)
    counts = {
        side: sum(count_tiles(shape, channels, divisor, side) for shape in shapes)
        for side in SIDES
        if side // 2 < longest
    }
    sides = [side for side, count in counts.items() if count >= FEWEST] or [SIDES[0]]
    found: list[tuple[float, int]] = []
    if len(sides) > 1:
        sample = _sample(flow, shapes, look, sides[-1])
        borrowed *= sum(tile.numbers for tile, _ in sample)
        for side in sides:
            bits = _bits(flow, sample, side)
            if found:  # until a whole tile's bits are there, tiles are halved
                share = min(1, borrowed / bits / counts[side])
                bits = share * found[-1][0] + (1 - share) * bits
            found.append((bits, side))
    return min(found)[1] if found else sides[0]


def _bits(flow: Flow, tiles: Sequence[Cut], side: int) -> float:
    """What tiles take, in tiles of this side."""
    parts = [
        (part, part.cut(picture)) for tile, picture in tiles for part in tile.divided(side, side)
    ]
    bits, _ = flow_bits(flow, *zip(*parts, strict=True))
    raw = [part.size * math.log2(config_of(flow).levels) for _, part in parts]
    return float(np.minimum(bits, raw).sum())


def _sample(flow: Flow, shapes: Sequence[Shape], look: Look, side: int) -> list[Cut]:
    """Tiles of this side, evenly over all pictures."""
    places = list(places_of(shapes, config_of(flow).shape[0], flow.divisor, side))
    # What is cut off at the ends of pictures says little.
    whole = [(i, tile) for i, tile in places if tile.shape[1:] == (side, side)] or places
    count = max(1, min(len(whole) // ONE_OF, MOST // side**2))
    chosen = [whole[(2 * n + 1) * len(whole) // (2 * count)] for n in range(count)]
    return [(tile, look(i)) for i, tile in chosen]
