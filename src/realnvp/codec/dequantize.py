"""Dequantization on the integer grid of the logit: the noise is popped, bits back."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections import Logit, VariationalDequantization
from realnvp.bijections.dequantization import Bend, bends, lean, stages
from realnvp.bijections.multiscale import even_squares, from_squares, odd_squares
from realnvp.codec.exact_nets import exact_nets
from realnvp.codec.integers import Integers, Rounding, Stack, certain, nearest
from realnvp.codec.steps import Conditioned

PIECES = 256  # of all levels together, at least
LEARNED_PIECES = 32  # of one level
OTHER_PIECES = 2  # the first nonce that changes them


class Noise:
    """The bends of pixels' noise.

    layer: None: uniform noise, which is not bent.
    v: levels, (B, C, H, W).
    """

    def __init__(
        self, layer: VariationalDequantization | None, v: Tensor, context: Conditioned
    ) -> None:
        self.learned, self.channels = layer is not None, v.shape[1]
        self.stages = stages(self.channels) if self.learned else [slice(None)]
        """The channels of `split` levels that are drawn together."""
        self.raw: Tensor | None = None
        if layer:
            raw, self.leans = layer.parameters_of(v.double(), context)
            squares = self.split(raw.flatten(0, 2))
            self.raw = squares.view(*raw.shape[:3], *squares.shape[1:])

    def split(self, x: Tensor) -> Tensor:
        """x, (B, C, H, W), so that a stage is a slice of its channels."""
        return torch.cat([even_squares(x), odd_squares(x)], dim=1) if self.learned else x

    def joined(self, x: Tensor) -> Tensor:
        """Undo `split`."""
        return from_squares(*x.chunk(2, dim=1)) if self.learned else x

    def moved_by(self, stage: int) -> slice | None:
        """The channels whose noise moves the stage's cells. None: there are none."""
        odd, channel = divmod(stage, self.channels)
        return self.stages[odd * self.channels] if self.learned and channel else None

    def bends(self, stage: int, u: Tensor) -> list[Bend]:
        """The bends of a stage.

        u: the noise, split, which is known of the stages before.
        """
        if self.raw is None:
            return []
        raw = self.raw[:, :, :, self.stages[stage]]
        odd, channel = divmod(stage, self.channels)
        squares = odd_squares if odd else even_squares
        return bends(raw, squares(lean(self.leans, self.joined(u), channel)))


class Cells:
    """Gray levels v as integers X, the logit in steps of 2^-bits.

    The noise u ~ U[0, 1) picks one of P pieces of the level and a place in the piece:

        i = pop(P);    X = G(i) + pop(G(i + 1) - G(i));    G(i) = round(2^bits logit(v + i / P))

    So within a piece noise is uniform on the logit's scale, which costs less than .0001 bits/dim.
    The decoder knows v and i from X, and pushes both digits back.

    Of learned noise (`VariationalDequantization`), G(i) has v + shift for v, where the shift is the
    first color's noise less 1/2; the decoder knows it from the first color's X.

    noise: the flow's learned noise, which bends i / P. A stage's numbers lean on the places of the
        stages before.
    """

    def __init__(self, logit: Logit, noise: VariationalDequantization | None, bits: int) -> None:
        self.logit, self.noise, self.scale = logit, noise, float(1 << bits)
        few = max(1, PIECES // logit.levels)
        self.oblique = noise is not None
        self.pieces = LEARNED_PIECES if noise else 1 << (few - 1).bit_length()
        levels = torch.arange(logit.levels + 1.0, dtype=torch.float64, device="cpu")
        self.edges = nearest(self._logit(levels))
        # A cell that is moved may be two steps narrower, by rounding.
        if self.edges.diff().min() < self.pieces + 2 * self.oblique:
            raise ValueError("its gray levels are too near to each other")

    def forward(self, v: Tensor, stack: Stack, nonce: int, context: Conditioned = None) -> Tensor:
        """X, int64, of v's shape.

        nonce: 0; others give other noise, where this one's was ambiguous.
        """
        noise = Noise(self.noise, v, context)
        v = noise.split(v)
        x, u = torch.empty_like(v), torch.zeros(v.shape, dtype=torch.float64, device="cpu")
        other_place, other_piece = _turns(nonce, v.shape)
        for stage, part in enumerate(noise.stages):
            digits = stack.pop(np.full(v[:, part].shape, self.pieces))
            i = torch.from_numpy((digits + other_piece[:, part]) % self.pieces)
            _, _, nodes = self._of_stage(stage, noise, v, x, u, certain)
            start, end = nodes(i), nodes(i + 1)
            sizes = (end - start).numpy()
            place = torch.from_numpy((stack.pop(sizes) + other_place[:, part]) % sizes)
            x[:, part], u[:, part] = start + place, self._noise_at(i, place, end - start)
            stack.bits -= np.log2(self.pieces * sizes).sum((1, 2, 3))
        return noise.joined(x)

    def inverse(self, x: Tensor, stack: Stack, nonce: int, context: Conditioned = None) -> Tensor:
        """v."""
        found = self._levels(x)
        noise = Noise(self.noise, found, context)
        v, x = noise.split(found), noise.split(x)
        u, digits = torch.zeros(v.shape, dtype=torch.float64, device="cpu"), []
        for stage, part in enumerate(noise.stages):
            cells = self._of_stage(stage, noise, v, x, u, nearest)
            i, start, end = self._pieces(x[:, part], *cells)
            place, size = x[:, part] - start, end - start
            u[:, part] = self._noise_at(i, place, size)
            digits.append((i.numpy(), place.numpy(), size.numpy()))
        other_place, other_piece = _turns(nonce, v.shape)
        for part, (i, place, size) in reversed(list(zip(noise.stages, digits, strict=True))):
            stack.push((place - other_place[:, part]) % size, size)
            stack.push((i - other_piece[:, part]) % self.pieces, np.full_like(i, self.pieces))
        return found

    def _levels(self, x: Tensor) -> Tensor:
        """v of X. ValueError: it lies beyond all levels."""
        upright, others = x.tensor_split([1 if self.oblique else x.shape[1]], dim=1)
        v = torch.searchsorted(self.edges, upright.contiguous(), right=True) - 1
        if self.oblique:
            # The middle of no X is near to the end of a moved cell: `certain` saw to that.
            moved = self._real(others) - self._shift(v, upright)
            v = torch.cat([v, moved.floor().long()], dim=1)
        if v.min() < 0 or v.max() >= self.logit.levels:
            raise ValueError("a pixel beyond all gray levels")
        return v

    def _shift(self, v: Tensor, x: Tensor) -> Tensor:
        """How far noise moves the other colors' cells: of the first color's levels and X."""
        return self._real(x) - v - 0.5

    def _real(self, x: Tensor) -> Tensor:
        """The middle of each X, in levels."""
        return self.logit._inverse((x + 0.5).double() / self.scale)

    def _pieces(
        self, x: Tensor, start: Tensor, end: Tensor, nodes: Rounding
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The pieces that numbers X lie in, and where these begin and end.

        start, end: of their cells.
        """
        i, half = torch.zeros_like(x), self.pieces // 2
        while half:
            middle = nodes(i + half)
            above = middle <= x
            i += half * above
            start, end = start.where(~above, middle), end.where(above, middle)
            half //= 2
        return i, start, end

    def _noise_at(self, i: Tensor, place: Tensor, size: Tensor) -> Tensor:
        """u at the middle of a place of the i-th piece: exact sums and a quotient."""
        return (i + (place + 0.5).double() / size) / self.pieces

    def _of_stage(
        self, stage: int, noise: Noise, v: Tensor, x: Tensor, u: Tensor, rounded: Rounding
    ) -> tuple[Tensor, Tensor, Rounding]:
        """Where the cells of a stage's levels begin and end, and G, which is there at 0 and P.

        v: all levels, split.
        x, u: all X and noise, split; of the stages before they are known.
        """
        level, by = v[:, noise.stages[stage]], noise.moved_by(stage)
        start, end, low = self.edges[level], self.edges[level + 1], level.double()
        if self.pieces == 1:
            return start, end, lambda i: self.edges[level + i]
        if by is not None:
            low = low + self._shift(v[:, by], x[:, by])
        first, last = self._logit(low), self._logit(low + 1)
        if by is not None:
            start, end = rounded(first), rounded(last)
        bends, room = noise.bends(stage, u), end - start - self.pieces

        def nodes(i: Tensor) -> Tensor:
            u = i.double() / self.pieces
            for p, q, c in bends:
                w = 1 - u
                u = u * (p * w + c * u) / (w * w + (p + c * q) * u * w + c * u * u)
            share = (self._logit(low + u) - first) / (last - first)
            return start + i + rounded(room * share)  # + i: no piece is empty

        return start, end, nodes

    def _logit(self, x: Tensor) -> Tensor:
        return scaled_logit(self.logit, x, self.scale)

    def constants(self) -> Iterator[Integers]:
        yield self.edges.numpy()
        for net in exact_nets(self.noise) if self.noise else []:
            yield from net.constants()


def scaled_logit(logit: Logit, x: Tensor, scale: float) -> Tensor:
    """The logit of each number of x, in steps of 1 / scale."""
    return scale * logit(x.flatten()[:, None])[0].view_as(x)


def borrowed(levels: int, bits: int) -> float:
    """About how many bits a number pops, for noise and couplings, before its image pushes more.

    The logit's slope is 4 in the middle of all levels.
    """
    return 1.3 * (bits + math.log2(4 / levels))


def _turns(nonce: int, shape: torch.Size) -> tuple[Integers, Integers]:
    """What the nonce adds to the place of each pixel's noise, and to its piece.

    A piece's edge can be ambiguous itself, whatever the place, so later nonces change the piece.
    """
    turns = np.zeros((2, *shape), np.int64)
    if nonce:
        turns[:] = np.random.Philox(nonce).random_raw(turns.size).reshape(turns.shape) >> 40
    return turns[0], turns[1] * (nonce >= OTHER_PIECES)
