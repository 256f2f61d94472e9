"""The standard normal on integers: a table of buckets, and a place in the bucket."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from realnvp.codec.rounding import nearest
from realnvp.codec.stack import Integers, Stack

PER_UNIT, REACH = 16, 6
TAILS = (0, 2 * REACH * PER_UNIT + 1)  # the first and the last bucket
TOTAL = 1 << 16
DIGITS = 48  # of the distance in a tail, in bits, at most


class Normal:
    """z ~ N(0, 1) as integers Z with the steps delta, (C, D, D).

    192 buckets, 1/16 wide, between -6 and 6. Their frequencies, of 2^16, are the normal's masses, 1
    at least; places within a bucket are equally likely. In the two buckets beyond, the
    distance from 6 is written digit by digit (Elias gamma: its length first).
    """

    def __init__(self, delta: Tensor) -> None:
        self.steps, kind = np.unique(delta.numpy(), return_inverse=True)
        self.kind = torch.from_numpy(kind.reshape(delta.shape))
        grid = torch.arange(-REACH * PER_UNIT, REACH * PER_UNIT + 1) / PER_UNIT
        self.edges = nearest(grid.double() / torch.from_numpy(self.steps)[:, None]).numpy()
        inner = np.diff(self.edges)
        if inner.max() > 1 << 16 or inner.min() < 1:
            raise ValueError("its latents are too fine or too coarse for integers")
        self.sizes = np.pad(inner, ((0, 0), (1, 1)), constant_values=1)
        self.frequencies = _frequencies()
        self.starts = np.cumsum(self.frequencies) - self.frequencies
        self.bucket_at = np.repeat(np.arange(len(self.frequencies)), self.frequencies)

    def push(self, z: Tensor, stack: Stack) -> None:
        """Put z, (B, C, H, W), on the stack."""
        x, kind = z.flatten().numpy(), self._kinds(z.shape)
        bucket = self._buckets(x, kind)
        place, length = self._places(x, kind, bucket)
        sizes = self._digit_sizes(kind, bucket, length)
        digits = [place & 0xFFFF, place >> 16 & 0xFFFF, place >> 32]
        tail = np.isin(bucket, TAILS)
        for row in stack.rows(len(x)):
            stack.push(digits[0][row], sizes[0][row])
            if tail[row].any():
                stack.push(digits[1][row], sizes[1][row])
                stack.push(digits[2][row], sizes[2][row])
                stack.push(length[row], np.where(tail[row], DIGITS, 1))
            b = bucket[row]
            stack.push(self.starts[b] + stack.pop(self.frequencies[b]), TOTAL)

    def pop(self, shape: torch.Size, stack: Stack) -> Tensor:
        """z of this shape."""
        kind = self._kinds(shape)
        bucket, length, place = (np.zeros_like(kind) for _ in range(3))
        for row in reversed(stack.rows(len(kind))):
            slot = stack.pop(np.full_like(kind[row], TOTAL))
            bucket[row] = b = self.bucket_at[slot]
            stack.push(slot - self.starts[b], self.frequencies[b])
            tail = np.isin(b, TAILS)
            if tail.any():
                length[row] = stack.pop(np.where(tail, DIGITS, 1))
            sizes = self._digit_sizes(kind[row], b, length[row])
            if tail.any():
                place[row] = stack.pop(sizes[2]) << 32
                place[row] |= stack.pop(sizes[1]) << 16
            place[row] |= stack.pop(sizes[0])
        return torch.from_numpy(self._values(kind, bucket, place, length)).view(shape)

    def _kinds(self, shape: torch.Size) -> Integers:
        """Which step each number has."""
        _, height, width = self.kind.shape
        kind = self.kind.repeat(1, shape[-2] // height, shape[-1] // width)
        return kind.expand(shape).flatten().numpy()

    def _buckets(self, x: Integers, kind: Integers) -> Integers:
        guess = np.floor((x + 0.5) * self.steps[kind] * PER_UNIT).clip(
            -REACH * PER_UNIT - 1, REACH * PER_UNIT
        )
        bucket = guess.astype(np.int64) + REACH * PER_UNIT + 1
        # Rounding could have led to the next one.
        bucket -= (bucket > 0) & (x < self.edges[kind, bucket - 1])
        last = TAILS[1]
        return bucket + ((bucket < last) & (x >= self.edges[kind, np.minimum(bucket, last - 1)]))

    def _places(self, x: Integers, kind: Integers, bucket: Integers) -> tuple[Integers, Integers]:
        """Where in its bucket x is. Of a tail: 1 + distance without its first bit; its length."""
        place = x - self.edges[kind, np.maximum(bucket, 1) - 1]
        below, above = (bucket == tail for tail in TAILS)
        distance = np.where(below, -place, place + 1)
        length = np.where(below | above, np.frexp(distance)[1] - 1, 0).astype(np.int64)
        return np.where(below | above, distance - (1 << length), place), length

    def _values(
        self, kind: Integers, bucket: Integers, place: Integers, length: Integers
    ) -> Integers:
        """x of `_places`."""
        below, above = (bucket == tail for tail in TAILS)
        distance = place + (1 << length)
        place = np.where(below, -distance, np.where(above, distance - 1, place))
        return self.edges[kind, np.maximum(bucket, 1) - 1] + place

    def _digit_sizes(
        self, kind: Integers, bucket: Integers, length: Integers
    ) -> tuple[Integers, Integers, Integers]:
        """Sizes of a place's three digits; only tails have more than one."""
        inner = self.sizes[kind, bucket]
        first, second, third = (1 << (length - low).clip(0, 16) for low in (0, 16, 32))
        return np.maximum(inner, first), second, third

    def constants(self) -> Iterator[Integers]:
        yield from (self.edges, self.frequencies)


def _frequencies() -> Integers:
    below = [
        0.5 * math.erfc(-i / PER_UNIT / math.sqrt(2))
        for i in range(-REACH * PER_UNIT, REACH * PER_UNIT + 1)
    ]
    masses = np.diff([0.0, *below, 1.0])
    frequencies = 1 + np.floor(masses * (TOTAL - len(masses))).astype(np.int64)
    frequencies[len(masses) // 2] += TOTAL - frequencies.sum()
    return frequencies
