"""How to code each tile: by the flow, by WebP or raw, whichever takes the fewest bits."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from realnvp.codec.chunk import Told, encode
from realnvp.codec.leaves import FLOW, RAW, WEBP
from realnvp.codec.mosaic import Bits, Search, bytes_alone, mosaic
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.stack import Integers
from realnvp.codec.tiles import Tile, by_shape
from realnvp.data.dataset import Pixels
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, config_of

MARGIN = 1.02  # without the flow it may take more than estimated, and is tried all the same
SURE = 1.2  # bits of a number by WebP, above which the flow nearly always takes fewer
QUICK = 1.3  # times the bits of the usual search: a quick one seldom needs more
DOUBT = 0.95  # of the bits by a quick search; where the flow takes more, a longer one looks
ONE_OF = 16  # of such tiles is looked at, too
NEAR, MANY = 0.95, 4  # look at all where the flow takes more than .95 of WebP for one of 4 tiles
LOST = 0.001  # of the bytes: so much more than by WebP are a reason to look at all, too


def smallest(
    flow: Flow, coder: IntegerFlow, places: Sequence[Tile], tiles: Sequence[Pixels], told: Told
) -> tuple[bytes, float]:
    """Code tiles, (C, h, w) each, each of them in the way that takes the fewest bits.

    The flow's bound takes half as long as coding, and WebP's usual search a third of that. So tiles
    that take many bits by its quick search are coded by the flow without a look at either. All are
    looked at, and coded again, where that took more than by WebP.

    Returns the bytes, and the bits that the flow's bound says for all tiles.

    coder: of the flow.
    places: of the tiles in their pictures.
    told: how many more tiles are coded.
    """
    numbers = np.array([place.numbers for place in places])
    raw = numbers * math.log2(coder.levels)
    bound, webp = FlowBound(flow, places, tiles), WebpBits(places, tiles)

    def unsure(sure: float) -> npt.NDArray[np.bool_]:
        return (webp.among_all < sure * numbers) | (webp.among_all >= raw)

    def without_flow() -> Bits:
        many = 2 * np.count_nonzero(webp.among_all < np.minimum(bound.bits, raw)) > len(tiles)
        return np.minimum(webp.among_all if many else webp.among_few, raw)

    some = np.arange(len(tiles)) % ONE_OF == 0
    webp.look(some | unsure(SURE * QUICK))
    # A class is chosen by its bits, so flows given classes need them all.
    bound.look(some | unsure(SURE) | (coder.classes > 0))
    webp.look(bound.bits * QUICK > webp.among_all)
    near = np.count_nonzero(bound.bits > NEAR * without_flow())
    if MANY * near > np.count_nonzero(bound.looked):
        _look_at_all(bound, webp)
    while True:
        others = without_flow()
        by_others = np.where(others < raw, WEBP, RAW)
        kinds = np.where(bound.bits < others, FLOW, by_others)
        coded, took = encode(coder, places, tiles, kinds, told, bound.classes)
        bound.look(np.isnan(took))
        bits = np.where(bound.looked, bound.bits, took)
        webp.look(bits > DOUBT * others)
        others = without_flow()
        if (bits - others)[kinds == FLOW].clip(0).sum() <= LOST * 8 * len(coded):
            break
        _look_at_all(bound, webp)
        told(-len(tiles))
    if FLOW in kinds and others.sum() < MARGIN * 8 * len(coded):
        without, _ = encode(coder, places, tiles, by_others, lambda _: None)
        coded = min(coded, without, key=len)
    return coded, float(bits.sum())


def _look_at_all(*bits: "FlowBound | WebpBits") -> None:
    """Look at all tiles."""
    for each in bits:
        each.look(np.ones_like(each.looked))


class WebpBits:
    """About how many bits tiles take by WebP: by a quick search; by the usual one where looked at.

    among_few: of each tile among few others.
    among_all: among all that were searched alike.
    """

    def __init__(self, places: Sequence[Tile], tiles: Sequence[Pixels]) -> None:
        self.places, self.tiles = places, tiles
        self.looked = np.zeros(len(tiles), bool)
        self.among_few, self.among_all = np.empty((2, len(tiles)))
        self._search(~self.looked, ~self.looked, "quick")

    def look(self, at: npt.NDArray[np.bool_]) -> None:
        """Look at more tiles."""
        new = at & ~self.looked
        if new.any():
            self.looked |= new
            self._search(new, self.looked, "usual")

    def _search(
        self, new: npt.NDArray[np.bool_], alike: npt.NDArray[np.bool_], search: Search
    ) -> None:
        for group in by_shape(self.places, new):
            self.among_few[group] = 8 * bytes_alone(self._pixels(group), search)
        for group in by_shape(self.places, alike):
            few = self.among_few[group]
            together = 8 * len(mosaic(self._pixels(group), search))
            self.among_all[group] = np.minimum(few, together * few / few.sum())

    def _pixels(self, group: list[int]) -> Pixels:
        return np.stack([self.tiles[i] for i in group])


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
        these = np.flatnonzero(at & ~self.looked).tolist()
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
