"""Real numbers to integers, alike on every machine, and a stack of their digits in bits."""

from collections.abc import Callable

import constriction
import numpy as np
import numpy.typing as npt
from torch import Tensor

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
Rounding = Callable[[Tensor], Tensor]
UNIFORM = constriction.stream.model.Uniform()

LIMIT = 2**26  # of the integers, so that all sums and products of them are exact
MARGIN = 1e-8  # of a step: a thousand times the differences between machines
RELATIVE = 1e-14  # the same for large numbers, whose last digits count more


class Ambiguous(Exception):
    """A number lies so near to the middle of two integers that machines could differ."""


class Unfit(ValueError):
    """Images leave the range of the integers: of a file, it is damaged.

    images: their indices in the batch.
    """

    def __init__(self, images: list[int]) -> None:
        super().__init__("numbers beyond the range of the integers")
        self.images = images


def nearest(y: Tensor) -> Tensor:
    """The nearest integers, int64, to y (B, ...). Unfit: beyond `LIMIT`, or no numbers."""
    return within_limit(y.round()).long()


def certain(y: Tensor) -> Tensor:
    """`nearest`. Ambiguous: another machine's rounding of y could end at the next integer."""
    integers = within_limit(y.round())
    distance = (y - integers).abs_()
    if (distance > 0.5 - MARGIN - RELATIVE * y.abs()).any():
        raise Ambiguous
    return integers.long()


def within_limit(x: Tensor) -> Tensor:
    """x, (B, ...), if it is. Unfit names the images that are not."""
    if x.numel() and not (x.min() > -LIMIT and x.max() < LIMIT):  # also where one is no number
        fits = (x.abs() < LIMIT).reshape(len(x), -1).all(1)
        raise Unfit((~fits).nonzero().flatten().tolist())
    return x


class Stack:
    """Digits d < n for any sizes n in 1 .. 2^16, at log2 n bits each (asymmetric numeral systems).

    `push` and `pop` undo each other exactly, in both orders. An empty stack returns zeros, and
    takes them back at no cost. So bits-back coding needs no initial bits.

    count: the bits on the stack.
    lowest: the fewest bits since the stack began, or since `copy`.
    bits: pushed less popped by each image of a batch, by its density.
    """

    def __init__(self, words: Words | None = None) -> None:
        self._coder = constriction.stream.stack.AnsCoder(words)
        self._begin()

    def _begin(self) -> None:
        self.lowest = self.count
        self.bits: float | npt.NDArray[np.float64] = 0.0

    @property
    def count(self) -> int:
        return self._coder.num_valid_bits()

    def copy(self) -> "Stack":
        """A stack that changes on its own."""
        other = Stack.__new__(Stack)
        other._coder = self._coder.clone()
        other._begin()
        return other

    def words(self) -> Words:
        """All digits, in words of 32 bits."""
        return self._coder.get_compressed()

    def pop(self, sizes: Integers) -> Integers:
        """A digit below each size, of the shape of sizes."""
        flat, digits = sizes.ravel(), np.zeros(sizes.size, np.int64)
        coded = flat > 1  # constriction refuses a size of 1
        digits[coded] = self._coder.decode(UNIFORM, flat[coded].astype(np.int32))
        self.lowest = min(self.lowest, self.count)
        return digits.reshape(sizes.shape)

    def push(self, digits: Integers, sizes: Integers) -> None:
        """Put digits, each below its size, on the stack."""
        coded = sizes > 1
        values = digits[coded].astype(np.int32), sizes[coded].astype(np.int32)
        self._coder.encode_reverse(values[0], UNIFORM, values[1])
