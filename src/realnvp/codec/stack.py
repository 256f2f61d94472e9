"""A stack of digits in bits: the last digit pushed is the first popped, whatever the sizes."""

import constriction
import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]

UNIFORM = constriction.stream.model.Uniform()


class Stack:
    """Digits d < n for any sizes n in 1 .. 2^16, at log2 n bits each (asymmetric numeral systems).

    `push` and `pop` undo each other exactly, in both orders. An empty stack gives zeros, and takes
    them back at no cost. So bits back coding needs no initial bits.

    words: of the stack to continue; see `words`.

    count: the bits on the stack.
    lowest: the fewest bits since the stack began, or since `copy`.
    bits: what each image of a batch has put on the stack, less what it took, by its density.
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
