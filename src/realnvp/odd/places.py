"""Where an image is odd: the box of its oddest place."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from realnvp.odd.statistics import CELL

REACH = 0.7
"""A box reaches as far as log shares are at most this much of the oddest place's."""


def box(shares: NDArray[Any]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom, in pixels, of the oddest place of a map (H, W), as Pillow crops.

    Around all places that hang together with the oddest, and whose log share of normal places is
    at least `REACH` of its own.
    """
    height, width = shares.shape
    cells = shares[CELL // 2 :: CELL, CELL // 2 :: CELL] if min(height, width) > CELL else shares
    side = CELL if cells is not shares else 1
    odd = torch.from_numpy(-np.log(np.maximum(cells, np.finfo(np.float32).tiny)))
    hot = (odd >= REACH * odd.max()).float()[None]
    region = torch.zeros_like(hot).flatten().index_fill(0, odd.argmax(), 1).view_as(hot)
    while not torch.equal(grown := F.max_pool2d(region, 3, 1, 1) * hot, region):
        region = grown
    rows, columns = (side * region[0].any(axis).nonzero() for axis in (1, 0))
    return (
        int(columns[0]),
        int(rows[0]),
        min(width, int(columns[-1]) + side),
        min(height, int(rows[-1]) + side),
    )
