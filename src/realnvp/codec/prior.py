"""The standard normal on integers: a table of buckets, and a place in the bucket."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from realnvp.codec.integers import Integers, Stack, nearest

REACH = 6
TOTAL = 1 << 16
DIGITS = 48  # of the distance in a tail, in bits, at most


class Normal:
    """z ~ N(0, 1) as integers Z with the steps delta, (C, D, D).

    192 buckets, 1/16 wide, between -6 and 6; more of them for fine steps. Their frequencies, of
    2^16, are the normal's masses, 1 at least. Places within a bucket are equally likely. In the two
    buckets beyond, the distance from 6 is written digit by digit (Elias gamma: its length first).
    """

    def __init__(self, delta: Tensor) -> None:
        self.steps, kind = np.unique(delta.numpy(), return_inverse=True)
        # A place in a bucket is a digit, so fine steps need narrow buckets.
        self.per_unit = 16
        while 1 / (self.steps.min() * self.per_unit) > 1 << 15:
            self.per_unit *= 2
        count = REACH * self.per_unit
        grid = torch.arange(-count, count + 1, device="cpu") / self.per_unit
        edges = nearest(grid.double() / torch.from_numpy(self.steps)[:, None]).numpy()
        inner = np.diff(edges)
        if self.per_unit > 256 or inner.min() < 1:
            raise ValueError("its latents are too fine or too coarse")
        self.buckets = 2 * count + 2
        self.tails = 0, self.buckets - 1
        self.kind = torch.from_numpy(self.buckets * kind.reshape(delta.shape))
        # Tables over all steps and buckets. The place in a tail is its distance from the edge.
        self.starts = np.pad(edges, ((0, 0), (1, 0)), mode="edge").ravel()
        self.sizes = np.pad(inner, ((0, 0), (1, 1)), constant_values=1).ravel()
        self.frequencies = _frequencies(self.per_unit)
        self.slots = np.cumsum(self.frequencies) - self.frequencies
        self.bucket_at = np.repeat(np.arange(self.buckets), self.frequencies)

    def push(self, z: Tensor, stack: Stack) -> None:
        """Put z, (B, C, H, W), on the stack."""
        x, kind = z.flatten().numpy(), self._kinds(z.shape)
        bucket = self._buckets(x, kind)
        place, size = x - self.starts[kind + bucket], self.sizes[kind + bucket]
        below, above = (bucket == tail for tail in self.tails)
        push_distances(np.where(below, -place, place + 1)[below | above], stack)
        place[below | above] = 0
        stack.push(place, size)
        slot = self.slots[bucket] + stack.pop(self.frequencies[bucket])
        stack.push(slot, np.full_like(slot, TOTAL))
        step = self.steps[kind // self.buckets]
        squares = ((x + 0.5) * step) ** 2
        bits = squares * (0.5 / math.log(2)) + 0.5 * math.log2(2 * math.pi) - np.log2(step)
        stack.bits += bits.reshape(len(z), -1).sum(1)

    def pop(self, shape: torch.Size, stack: Stack) -> Tensor:
        """z of this shape."""
        kind = self._kinds(shape)
        slot = stack.pop(np.full_like(kind, TOTAL))
        bucket = self.bucket_at[slot]
        stack.push(slot - self.slots[bucket], self.frequencies[bucket])
        place = stack.pop(self.sizes[kind + bucket])
        below, above = (bucket == tail for tail in self.tails)
        distance = np.zeros_like(kind)
        distance[below | above] = pop_distances(int((below | above).sum()), stack)
        place += np.where(below, -distance, np.where(above, distance - 1, 0))
        return torch.from_numpy(self.starts[kind + bucket] + place).view(shape)

    def _kinds(self, shape: torch.Size) -> Integers:
        """Where the buckets of each number's step begin in the tables."""
        _, height, width = self.kind.shape
        kind = self.kind.repeat(1, shape[-2] // height, shape[-1] // width)
        return kind.expand(shape).flatten().numpy()

    def _buckets(self, x: Integers, kind: Integers) -> Integers:
        guess = (x + 0.5) * (self.steps * self.per_unit)[kind // self.buckets]
        half = REACH * self.per_unit
        bucket = np.floor(guess.clip(-half - 1, half)).astype(np.int64) + half + 1
        # The product's rounding could have led to the next one.
        bucket -= (bucket > 0) & (x < self.starts[kind + bucket])
        above = self.starts[kind + np.minimum(bucket + 1, self.buckets - 1)]
        return bucket + ((bucket < self.buckets - 1) & (x >= above))

    def constants(self) -> Iterator[Integers]:
        yield from (self.starts, self.frequencies)


def push_distances(distances: Integers, stack: Stack) -> None:
    """Put integers of at least 1 on the stack: the bits after the first, then how many there are.

    This is Elias' gamma code, but for the length, which is a digit.
    """
    length = np.frexp(distances)[1].astype(np.int64) - 1
    rest = distances - (1 << length)
    for low in range(0, DIGITS, 16):
        stack.push(rest >> low & 0xFFFF, 1 << (length - low).clip(0, 16))
    stack.push(length, np.full_like(length, DIGITS))


def pop_distances(count: int, stack: Stack) -> Integers:
    """So many of `push_distances`."""
    length = stack.pop(np.full(count, DIGITS))
    distances = 1 << length
    for low in reversed(range(0, DIGITS, 16)):
        distances += stack.pop(1 << (length - low).clip(0, 16)) << low
    return distances


def _frequencies(per_unit: int) -> Integers:
    below = [
        0.5 * math.erfc(-i / per_unit / math.sqrt(2))
        for i in range(-REACH * per_unit, REACH * per_unit + 1)
    ]
    masses = np.diff([0.0, *below, 1.0])
    frequencies = 1 + np.floor(masses * (TOTAL - len(masses))).astype(np.int64)
    frequencies[len(masses) // 2] += TOTAL - frequencies.sum()
    return frequencies
