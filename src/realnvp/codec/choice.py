"""How to code each tile: by the flow, by WebP or raw, whichever takes the fewest bits."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from realnvp.codec.chunk import Told, encode
from realnvp.codec.leaves import FLOW, RAW, WEBP
from realnvp.codec.mosaic import tile_bits
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.stack import Integers
from realnvp.codec.tiles import Tile, by_shape
from realnvp.data.dataset import Pixels
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, config_of

Bits = npt.NDArray[np.float64]

MARGIN = 1.02  # without the flow it may take more than estimated, and is tried all the same


def smallest(
    flow: Flow, coder: IntegerFlow, places: Sequence[Tile], tiles: Sequence[Pixels], told: Told
) -> tuple[bytes, float]:
    """Code tiles, (C, h, w) each, each of them in the way that takes the fewest bits.

    Returns the bytes, and the bits that the flow's bound says for all tiles.

    coder: of the flow.
    places: of the tiles in their pictures.
    told: how many more tiles are coded.
    """
    by_flow, classes = flow_bits(flow, places, tiles)
    by_webp, among_all = np.empty((2, len(tiles)))
    for group in by_shape(places, np.ones(len(tiles), bool)):
        by_webp[group], among_all[group] = tile_bits(np.stack([tiles[i] for i in group]))
    raw = np.array([math.prod(place.shape) * math.log2(coder.levels) for place in places])
    if 2 * np.count_nonzero(among_all < np.minimum(by_flow, raw)) > len(tiles):
        by_webp = among_all
    others = np.where(by_webp < raw, WEBP, RAW)
    kinds = np.where(by_flow < np.minimum(by_webp, raw), FLOW, others)
    coded = encode(coder, places, tiles, kinds, told, classes)
    if FLOW in kinds and np.minimum(by_webp, raw).sum() < MARGIN * 8 * len(coded):
        coded = min(coded, encode(coder, places, tiles, others, lambda _: None), key=len)
    return coded, float(by_flow.sum())


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
