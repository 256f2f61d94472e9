"""A stack of digits in bits: the last digit pushed is the first popped, whatever the sizes."""

import copy

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint16]


class Empty(ValueError):
    """A pop needs more words than there are: of a file, it is damaged."""


class Stack:
    """Digits d < n for any sizes n in 1 .. 2^16, at log2 n bits each.

    Lanes work side by side, as numpy's arrays do. The state of a lane is an integer c in
    [2^16, 2^32). All lanes share one stack of words of 16 bits.

        pop(n):      where c < n 2^16: c = 2^16 c + word.     d = c mod n, c = floor(c / n)
        push(d, n):  c = n c + d.     where c >= 2^32: word = c mod 2^16, c = floor(c / 2^16)

    The two undo each other exactly. That needs the refill before the division and the word after
    the product; the rule of other such coders (rANS) is exact only where n divides their bounds.

    A lane starts as 2^16 + word, so its start is not lost.

    words: what is on the stack at first, the bottom first. Zeros are added for lanes without a
    word.

    lowest: the fewest words that there have been.
    bits: what each image of a batch has put on the stack, less what it took, as its density says.
    """

    def __init__(self, words: Words, lanes: int) -> None:
        missing = max(0, lanes - len(words))
        self._words: Words = np.concatenate([words, np.zeros(missing, np.uint16)])
        self.count = self.lowest = len(self._words)
        self.states: Integers = (1 << 16) + self.pop_words(lanes)
        self.bits: float | npt.NDArray[np.float64] = 0.0

    @classmethod
    def of(cls, states: Integers, words: Words) -> "Stack":
        """The stack with these states of the lanes, and these words below them."""
        stack = cls(words, 0)
        stack.states = states
        return stack

    def bottom(self) -> Words:
        """The words at the start, once all that was pushed is popped.

        ValueError: a lane is not at its start.
        """
        if (self.states >> 17).any():
            raise ValueError("the stack is not at its start")
        start = (self.states - (1 << 16)).astype(np.uint16)
        return np.concatenate([self.words(), start])

    def words(self) -> Words:
        """The words below the lanes, the bottom first."""
        return self._words[: self.count]

    def copy(self) -> "Stack":
        """A stack that changes on its own, `lowest` and `bits` counted from here."""
        other = copy.deepcopy(self)
        other.lowest, other.bits = other.count, 0.0
        return other

    def rows(self, count: int) -> list[slice]:
        """`count` digits in rows, a digit for each lane; the last row may be shorter."""
        lanes = len(self.states)
        return [slice(i, min(i + lanes, count)) for i in range(0, count, lanes)]

    def pop(self, sizes: Integers) -> Integers:
        """A digit below each size. Empty: the words are used up."""
        c = self.states[: len(sizes)]
        self._refill(c, c < sizes << 16)
        # Floating-point division is exact, since c < 2^48.
        quotient = (c / sizes).astype(np.int64)
        digits = c - quotient * sizes
        c[:] = quotient
        return digits

    def push(self, digits: Integers, sizes: Integers) -> None:
        """Put digits, each below its size, on the stack."""
        c = self.states[: len(digits)]
        c *= sizes
        c += digits
        self._spill(c)

    def pop_bits(self, count: int, bits: int) -> Integers:
        """`pop` of so many digits below 2^bits."""
        c = self.states[:count]
        self._refill(c, c < 1 << 16 + bits)
        digits = c & (1 << bits) - 1
        c >>= bits
        return digits

    def push_bits(self, digits: Integers, bits: int) -> None:
        """`push` of digits below 2^bits."""
        c = self.states[: len(digits)]
        c <<= bits
        c |= digits
        self._spill(c)

    def pop_words(self, count: int) -> Integers:
        """`pop_bits` of 16 bits, which are words as they are."""
        if count > self.count:
            raise Empty
        self.count -= count
        self.lowest = min(self.lowest, self.count)
        return self._words[self.count : self.count + count].astype(np.int64)

    def push_words(self, words: Integers) -> None:
        """`push_bits` of 16 bits."""
        end = self.count + len(words)
        if end > len(self._words):  # twice as much room
            self._words = np.concatenate([self._words, np.empty(end, np.uint16)])
        self._words[self.count : end] = words
        self.count = end

    def pop_all(self, sizes: Integers) -> Integers:
        """`pop` of any number of digits, row by row."""
        digits = np.empty_like(sizes)
        for row in self.rows(len(sizes)):
            digits[row] = self.pop(sizes[row])
        return digits

    def push_all(self, digits: Integers, sizes: Integers) -> None:
        """Undo `pop_all`."""
        for row in reversed(self.rows(len(sizes))):
            self.push(digits[row], sizes[row])

    def _refill(self, c: Integers, low: npt.NDArray[np.bool_]) -> None:
        (lanes,) = low.nonzero()
        if len(lanes):
            c[lanes] = c[lanes] << 16 | self.pop_words(len(lanes))

    def _spill(self, c: Integers) -> None:
        (lanes,) = (c >= 1 << 32).nonzero()
        if len(lanes):
            full = c[lanes]
            self.push_words(full & 0xFFFF)
            c[lanes] = full >> 16


PLACES = np.arange(31, -1, -1)  # of the bits of a state, the highest first


def packed_states(states: Integers) -> bytes:
    """States of lanes: in 4 bits each where its highest 1 is, less 16; then all bits below these.

    The places are equally likely. So a lane costs 4 bits; in 32 bits each it would cost 8.
    """
    top = np.frexp(states)[1][:, None] - 1
    tops, bits = top - 16 >> PLACES[-4:] & 1, states[:, None] >> PLACES & 1
    return np.packbits(np.concatenate([tops.ravel(), bits[top > PLACES]])).tobytes()


def unpacked_states(content: bytes, lanes: int) -> tuple[Integers, bytes]:
    """So many `packed_states`, and what lies behind them. ValueError: cut off."""
    bits = np.unpackbits(np.frombuffer(content[: 5 * lanes], np.uint8)).astype(np.int64)
    if len(bits) < 4 * lanes:
        raise ValueError("cut off")
    top = 16 + bits[: 4 * lanes].reshape(lanes, 4) @ (1 << PLACES[-4:])[:, None]
    below = top > PLACES
    end = 4 * lanes + np.count_nonzero(below)
    if len(bits) < end:
        raise ValueError("cut off")
    state = (top == PLACES).astype(np.int64)
    state[below] = bits[4 * lanes : end]
    return state @ (1 << PLACES), content[-(-end // 8) :]
