"""The two partitions of section 3.4, and one for vectors, as functions of the shape: no weight and no buffer has a spatial size.

True (b = 1 in eq 9) means passed through unchanged.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

Mask = Callable[[Sequence[int], torch.device], Tensor]


def checkerboard(shape: Sequence[int], device: torch.device, *, flip: bool = False) -> Tensor:
    """(1, 1, H, W), True where the row plus the column is odd; the other colour with flip."""
    rows = torch.arange(shape[-2], device=device)[:, None]
    columns = torch.arange(shape[-1], device=device)
    return ((rows + columns) % 2 == (0 if flip else 1))[None, None]


def channelwise(shape: Sequence[int], device: torch.device, *, flip: bool = False) -> Tensor:
    """(1, C, 1, 1), True for the first half of the channels; the second half with flip."""
    channels = shape[-3]
    first_half = torch.arange(channels, device=device) < channels // 2
    return (~first_half if flip else first_half)[None, :, None, None]


def bitwise(shape: Sequence[int], device: torch.device, *, bit: int, flip: bool = False) -> Tensor:
    """(1, D) for vectors, True where the index, in binary, has a 1 at this place, counted around; the others with flip.

    So any two entries are on different sides for some bit.
    """
    size = shape[-1]
    place = bit % max(1, (size - 1).bit_length())
    # Small flows of vectors would spend a tenth of their time on it; a tracer's tensors are not to be kept.
    make = _bits.__wrapped__ if torch.compiler.is_compiling() else _bits
    return make(size, place, flip, device)


@lru_cache(maxsize=256)
def _bits(size: int, place: int, flip: bool, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return ((torch.arange(size, device=device) >> place) % 2 == (0 if flip else 1))[None]
