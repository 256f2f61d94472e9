"""How to code each tile: by the flow, by WebP or raw, whichever takes the fewest bits."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from realnvp.codec.chunk import Told
from realnvp.codec.encoder import encode
from realnvp.codec.leaves import FLOW, RAW, WEBP
from realnvp.codec.mosaic import Bits, Search, bytes_alone, mosaic
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.stack import Integers
from realnvp.codec.tiles import Tile, by_shape
from realnvp.data.dataset import Pixels
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, config_of

MARGIN = 1.02  # without the flow it may take more than estimated, and is tried all the same
SURE = 1.5  # bits of a number by a quick search, above which the flow nearly always takes fewer
DOUBT = 0.95  # of the bits by WebP: a tile of which the flow takes more is looked at
ONE_OF = 16  # tiles is looked at, whatever it takes
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
    bits = TileBits(flow, places, tiles)
    some = np.arange(len(tiles)) % ONE_OF == 0
    unsure = (bits.by_webp < SURE * bits.numbers) | (bits.by_webp >= bits.raw)
    # A class is chosen by its bits, so flows given classes need them all.
    bits.look(some | unsure | (coder.classes > 0))
    near = np.count_nonzero(bits.by_flow > NEAR * bits.without_flow())
    if MANY * near > np.count_nonzero(bits.looked):
        bits.look(~bits.looked)
    while True:
        others = bits.without_flow()
        by_others = np.where(others < bits.raw, WEBP, RAW)
        kinds = np.where(bits.by_flow < others, FLOW, by_others)
        coded, took = encode(coder, places, tiles, kinds, told, bits.classes)
        bits.look(~(took <= DOUBT * others))  # also what was not coded as a whole: NaN
        took = np.where(bits.looked, bits.by_flow, took)
        others = bits.without_flow()
        if (took - others)[kinds == FLOW].clip(0).sum() <= LOST * 8 * len(coded):
            break
        bits.look(~bits.looked)
        told(-len(tiles))
    if FLOW in kinds and others.sum() < MARGIN * 8 * len(coded):
        without, _ = encode(coder, places, tiles, by_others, lambda _: None)
        coded = min(coded, without, key=len)
    return coded, float(took.sum())


class TileBits:
    """About how many bits tiles take. Of those that are not looked at little is known.

    by_flow: the flow's bound; 0 of tiles not looked at, which the flow shall code.
    by_webp: among all that were searched alike: a quick search, or the usual one where looked at.
    raw: without either.
    classes: the likeliest, where all tiles were looked at at once. None: the flow is not given any.
    """

    def __init__(self, flow: Flow, places: Sequence[Tile], tiles: Sequence[Pixels]) -> None:
        self.flow, self.places, self.tiles = flow, places, tiles
        self.numbers = np.array([place.numbers for place in places])
        self.raw = self.numbers * math.log2(config_of(flow).levels)
        self.looked, self.by_flow = np.zeros(len(tiles), bool), np.zeros(len(tiles))
        self.classes: Integers | None = None
        self.by_webp, self._webp_among_few = np.empty((2, len(tiles)))
        self._search(~self.looked, ~self.looked, "quick")

    def look(self, at: npt.NDArray[np.bool_]) -> None:
        """Look at more tiles."""
        new = at & ~self.looked
        if not new.any():
            return
        self.looked |= new
        self._search(new, self.looked, "usual")
        these = np.flatnonzero(new).tolist()
        self.by_flow[these], self.classes = flow_bits(
            self.flow, [self.places[i] for i in these], [self.tiles[i] for i in these]
        )

    def without_flow(self) -> Bits:
        """By WebP or raw. Where many are by WebP, they share its file."""
        many = 2 * np.count_nonzero(self.by_webp < np.minimum(self.by_flow, self.raw))
        webp = self.by_webp if many > len(self.tiles) else self._webp_among_few
        return np.minimum(webp, self.raw)

    def _search(
        self, new: npt.NDArray[np.bool_], alike: npt.NDArray[np.bool_], search: Search
    ) -> None:
        for group in by_shape(self.places, new):
            self._webp_among_few[group] = 8 * bytes_alone(self._pixels(group), search)
        for group in by_shape(self.places, alike):
            few = self._webp_among_few[group]
            together = 8 * len(mosaic(self._pixels(group), search))
            self.by_webp[group] = np.minimum(few, together * few / few.sum())

    def _pixels(self, group: list[int]) -> Pixels:
        return np.stack([self.tiles[i] for i in group])


def flow_bits(
    flow: Flow, places: Sequence[Tile], tiles: Sequence[Pixels]
) -> tuple[Bits, Integers | None]:
    """The flow's bound for each tile, infinite where it has none, and the likeliest class.

    A class takes log2 K bits. None: the flow is not given classes.
    """
    count = config_of(flow).model.context_dim
    nats = np.empty((max(1, count), len(tiles)))
    for group in by_shape(places, np.ones(len(tiles), bool)):
        images = np.stack([tiles[i] for i in group])
        for c in range(len(nats)):
            found = log_probs(flow, images, context=c if count else None)
            nats[c, group] = found.nan_to_num(-math.inf, -math.inf, -math.inf).numpy()
    bits = -nats.max(0) / math.log(2) + math.log2(len(nats))
    return bits, nats.argmax(0) if count else None
