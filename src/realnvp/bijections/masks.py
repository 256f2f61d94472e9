"""Masks b of eq 9: the two partitions of section 3.4, one for vectors, and none.

True: passed through unchanged. Masks are functions of the shape, so no weight and no buffer has a
spatial size.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

Mask = Callable[[Sequence[int], torch.device], Tensor]


def checkerboard(shape: Sequence[int], device: torch.device, *, flip: bool = False) -> Tensor:
    """(1, 1, H, W), True where row plus column is odd. flip: where it is even."""
    rows = torch.arange(shape[-2], device=device)[:, None]
    columns = torch.arange(shape[-1], device=device)
    return ((rows + columns) % 2 == (0 if flip else 1))[None, None]


def channelwise(shape: Sequence[int], device: torch.device, *, flip: bool = False) -> Tensor:
    """(1, C, 1, 1), True for the first half of the channels. flip: for the second half."""
    channels = shape[-3]
    first_half = torch.arange(channels, device=device) < channels // 2
    return (~first_half if flip else first_half)[None, :, None, None]


def bitwise(shape: Sequence[int], device: torch.device, *, bit: int, flip: bool = False) -> Tensor:
    """(1, D), True where the entry's index, in binary, has a 1 at place `bit`. flip: a 0.

    Any two entries are on different sides for some bit. Places are counted modulo their number.
    """
    size = shape[-1]
    place = bit % max(1, (size - 1).bit_length())
    # Without the cache small flows of vectors spend a tenth of their time here. A compiler's
    # tensors are not to be kept.
    make = _bits.__wrapped__ if torch.compiler.is_compiling() else _bits
    return make(size, place, flip, device)


def none_kept(shape: Sequence[int], device: torch.device) -> Tensor:
    """False: every entry changes, by the context alone."""
    return torch.zeros((), dtype=torch.bool, device=device)


@lru_cache(maxsize=256)
def _bits(size: int, place: int, flip: bool, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return ((torch.arange(size, device=device) >> place) % 2 == (0 if flip else 1))[None]
