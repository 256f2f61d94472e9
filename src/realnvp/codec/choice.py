"""How to code each tile: by the flow, by WebP or raw, whichever takes the fewest bits."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from realnvp.codec.chunk import Bits, Told, encode
from realnvp.codec.leaves import FLOW, RAW, WEBP
from realnvp.codec.mosaic import tile_bits
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.stack import Integers
from realnvp.codec.tiles import Tile, by_shape
from realnvp.data.dataset import Pixels
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, config_of

MARGIN = 1.02  # without the flow it may take more than estimated, and is tried all the same
SURE = 2.0  # bits of a number by WebP, above which the flow nearly always takes fewer
ONE_OF = 8  # of such tiles is looked at, too
LOST = 0.001  # of the bytes: so much more than by WebP are a reason to look at all tiles


def smallest(
    flow: Flow, coder: IntegerFlow, places: Sequence[Tile], tiles: Sequence[Pixels], told: Told
) -> tuple[bytes, float]:
    """Code tiles, (C, h, w) each, each of them in the way that takes the fewest bits.

    The flow's bound takes half as long as coding. So tiles that take many bits by WebP are coded by
    the flow without a look at its bound. All are coded again where that took more than by WebP.

    Returns the bytes, and the bits that the flow's bound says for all tiles.

    coder: of the flow.
    places: of the tiles in their pictures.
    told: how many more tiles are coded.
    """
    by_webp, among_all = np.empty((2, len(tiles)))
    for group in by_shape(places, np.ones(len(tiles), bool)):
        by_webp[group], among_all[group] = tile_bits(np.stack([tiles[i] for i in group]))
    numbers = np.array([place.numbers for place in places])
    raw = numbers * math.log2(coder.levels)
    bound = FlowBound(flow, places, tiles)
    unsure = (among_all < SURE * numbers) | (among_all >= raw)
    # A class is chosen by its bits, so flows given classes need them all.
    bound.look(unsure | (np.arange(len(tiles)) % ONE_OF == 0) | (coder.classes > 0))
    if (bound.bits > np.minimum(among_all, raw))[~unsure].any():
        bound.look(~bound.looked)
    while True:
        if 2 * np.count_nonzero(among_all < np.minimum(bound.bits, raw)) > len(tiles):
            by_webp = among_all
        others = np.minimum(by_webp, raw)
        by_others = np.where(by_webp < raw, WEBP, RAW)
        kinds = np.where(bound.bits < others, FLOW, by_others)
        coded, took = encode(coder, places, tiles, kinds, told, bound.classes)
        bound.look(~bound.looked & np.isnan(took))
        bits = np.where(bound.looked, bound.bits, took)
        if (bits - others)[kinds == FLOW].clip(0).sum() <= LOST * 8 * len(coded):
            break
        bound.look(~bound.looked)
        told(-len(tiles))
    if FLOW in kinds and others.sum() < MARGIN * 8 * len(coded):
        without, _ = encode(coder, places, tiles, by_others, lambda _: None)
        coded = min(coded, without, key=len)
    return coded, float(bits.sum())


class FlowBound:
    """The flow's bound for tiles that were looked at.

    bits: of each tile; 0 of others, which the flow shall code.
    classes: the likeliest, where all tiles were looked at at once. None: the flow is not given any.
    """

    def __init__(self, flow: Flow, places: Sequence[Tile], tiles: Sequence[Pixels]) -> None:
        self.flow, self.places, self.tiles = flow, places, tiles
        self.bits, self.looked = np.zeros(len(tiles)), np.zeros(len(tiles), bool)
        self.classes: Integers | None = None

    def look(self, at: npt.NDArray[np.bool_]) -> None:
        """Look at more tiles."""
        these = np.flatnonzero(at).tolist()
        if these:
            self.bits[these], self.classes = flow_bits(
                self.flow, [self.places[i] for i in these], [self.tiles[i] for i in these]
            )
            self.looked[these] = True


def flow_bits(
    flow: Flow, places: Sequence[Tile], tiles: Sequence[Pixels]
) -> tuple[Bits, Integers | None]:
    """The flow's bound for each tile, infinite where it has none, and the likeliest class.

    A class takes log2 K bits. None: the flow is not given classes.
    """
    count = config_of(flow).model.given
    nats = np.empty((max(1, count), len(tiles)))
    for group in by_shape(places, np.ones(len(tiles), bool)):
        images = np.stack([tiles[i] for i in group])
        for c in range(len(nats)):
            found = log_probs(flow, images, given=c if count else None)
            nats[c, group] = found.nan_to_num(-math.inf, -math.inf, -math.inf).numpy()
    bits = -nats.max(0) / math.log(2) + math.log2(len(nats))
    return bits, nats.argmax(0) if count else None
