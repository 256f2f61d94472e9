"""Arrays of other libraries as tensors."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def as_tensor(array: ArrayLike) -> Tensor:
    """A copy of an array, on the CPU, which torch takes.

    Its own functions refuse arrays that are reversed, as x[::-1], or of the other byte order. They
    warn of those that may not be written to.

    TypeError: it is no array of numbers.
    """
    found = np.asarray(array)
    return torch.from_numpy(np.array(found, dtype=found.dtype.newbyteorder("=")))
