"""From grey levels to the integer grid of the logit: the noise is popped, bits back."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections import Dequantisation, Logit
from realnvp.codec.exact import exact_nets
from realnvp.codec.rounding import Rounding, certain, nearest
from realnvp.codec.stack import Integers, Stack
from realnvp.codec.steps import Given
from realnvp.data.dataset import Pixels

PIECES = 256  # of all levels together, at least
LEARNED_PIECES = 16  # of one level


class Cells:
    """Grey levels v as integers X, the logit in steps of 2^-bits.

    The noise u ~ U[0, 1) picks one of P pieces of the level and a place in the piece:

        i = pop(P);    X = G(i) + pop(G(i + 1) - G(i));    G(i) = round(2^bits logit(v + i / P))

    So within a piece noise is uniform on the logit's scale, which costs less than .0001 bits/dim.
    The decoder knows v and i from X, and pushes both digits back.

    noise: the flow's learned noise, which bends i / P.
    """

    def __init__(self, logit: Logit, noise: Dequantisation | None, bits: int) -> None:
        self.logit, self.noise, self.scale = logit, noise, float(1 << bits)
        few = max(1, PIECES // logit.levels)
        self.pieces = LEARNED_PIECES if noise else 1 << (few - 1).bit_length()
        levels = torch.arange(logit.levels + 1.0, dtype=torch.float64, device="cpu")
        self.edges = nearest(self._logit(levels))
        if self.edges.diff().min() < self.pieces:
            raise ValueError("its grey levels are too near to each other")

    def forward(self, v: Tensor, stack: Stack, nonce: int, given: Given = None) -> Tensor:
        """X, int64, of v's shape.

        nonce: 0; others give other noise, where this one's was ambiguous.
        """
        i = torch.from_numpy(stack.pop_all(np.full(v.numel(), self.pieces))).view_as(v)
        nodes = self._nodes(v, given, certain)
        start, end = nodes(i), nodes(i + 1)
        sizes = (end - start).flatten().numpy()
        place = (stack.pop_all(sizes) + _turn(nonce, len(sizes))) % sizes
        return start + torch.from_numpy(place).view_as(v)

    def inverse(self, x: Tensor, stack: Stack, nonce: int, given: Given = None) -> Tensor:
        """v."""
        v = torch.searchsorted(self.edges, x, right=True) - 1
        if v.min() < 0 or v.max() >= self.logit.levels:
            raise ValueError("a pixel beyond all grey levels")
        i, nodes, half = torch.zeros_like(v), self._nodes(v, given, nearest), self.pieces // 2
        while half:
            i += half * (nodes(i + half) <= x)
            half //= 2
        start, end = nodes(i).flatten().numpy(), nodes(i + 1).flatten().numpy()
        place, sizes = x.flatten().numpy() - start, end - start
        stack.push_all((place - _turn(nonce, len(sizes))) % sizes, sizes)
        stack.push_all(i.flatten().numpy(), np.full(len(sizes), self.pieces))
        return v

    def noise_bits(self, pixels: Pixels) -> float:
        """About how many bits the noise of these pixels takes."""
        return float(
            self.edges.diff().double().log2()[torch.from_numpy(pixels.astype(np.int64))].sum()
        )

    def _nodes(self, v: Tensor, given: Given, rounded: Rounding) -> Rounding:
        """G of the pixels' levels: G(0) and G(P) are the edges of the level."""
        start, room = self.edges[v], self.edges.diff()[v] - self.pieces
        bends = self.noise._predict(v + 0.5, given)[2] if self.noise else []
        first, last = self._logit(v.double()), self._logit(v + 1.0)

        def nodes(i: Tensor) -> Tensor:
            u = i.double() / self.pieces
            for p, q, c in bends:
                w = 1 - u
                u = u * (p * w + c * u) / (w * w + (p + c * q) * u * w + c * u * u)
            share = (self._logit(v + u) - first) / (last - first)
            return start + i + rounded(room * share)  # + i: no piece is empty

        return nodes

    def _logit(self, x: Tensor) -> Tensor:
        return self.scale * self.logit(x.flatten()[:, None])[0].view_as(x)

    def constants(self) -> Iterator[Integers]:
        yield self.edges.numpy()
        for net in exact_nets(self.noise) if self.noise else []:
            yield from net.constants()


def _turn(nonce: int, count: int) -> Integers | int:
    """What the nonce adds to the noise of each pixel."""
    return (np.random.Philox(nonce).random_raw(count) >> 40).astype(np.int64) if nonce else 0
