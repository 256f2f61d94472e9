"""All randomness after initialization: functions of (seed, purpose, index, round) alone.

So a resumed training draws the noise of an uninterrupted one, and no result depends on batch
size, order or the number of processes. Philox is a counter-based generator: the seed and the
purpose are its key, the index and the round its counter.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Purpose(IntEnum):
    """The purposes of noise; each has a stream of its own."""

    ORDER = 1
    FLIP = 2
    TRAIN = 3
    MOMENTS = 4
    EVALUATE = 5
    SAMPLE = 6
    WEIGHTS = 7
    RESAMPLE = 8
    CHOICE = 9
    CROP = 10
    SQUARE = 11
    TURN = 12
    SHUFFLE = 13
    CLASS = 14
    BRIGHTNESS = 15


def generator(
    seed: int, purpose: Purpose, *, index: int = 0, round: int = 0
) -> np.random.Generator:
    """numpy's generator for a seed, a purpose, an index (of an image) and a round (an epoch)."""
    if not 0 <= seed < 2**63 or seed != int(seed):
        raise ValueError(f"seed: must be a whole number from 0 to 2^63 - 1, got {seed}")
    key = np.array([int(seed), purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=_counter(index, round)))


def uniform(
    shape: Sequence[int],
    seed: int,
    purpose: Purpose,
    *,
    indices: Sequence[int] | NDArray[np.int64],
    round: int = 0,
) -> Tensor:
    """(B, *shape), float32 in [0, 1): row i is a function of (seed, purpose, indices[i], round)."""
    rows = np.empty((len(indices), *shape), np.float32)
    # Row i is drawn as by generator(seed, purpose, index=indices[i]). To set the counter of one
    # Philox is quicker than to make many.
    random = generator(seed, purpose)
    state = random.bit_generator.state
    for row, index in zip(rows, indices, strict=True):
        state["state"]["counter"] = _counter(int(index), round)
        random.bit_generator.state = state
        random.random(out=row, dtype=np.float32)
    return torch.from_numpy(rows)


def _counter(index: int, round: int) -> NDArray[np.uint64]:
    return np.array([0, 0, index, round], dtype=np.uint64)
