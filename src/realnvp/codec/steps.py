"""The layers of a flow as maps of integers on a grid, bit for bit invertible.

An integer X with the step delta stands for the cell [X, X + 1) delta of the real line. The networks
see its middle. delta is a float64 tensor (C, D, D), which repeats over the image: D is the divisor
of the sides. So squeezes act on it as they act on x.

A layer that stretches a cell needs new bits to say where in the stretched cell x is: it pops them.
A layer that shrinks cells, so that several fall into one, pushes which of them it was. On average
the bits are the layer's log-det.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from realnvp.bijections import Additive, Coupling
from realnvp.bijections.multiscale import Nested
from realnvp.codec.exact_nets import exact_nets
from realnvp.codec.integers import LIMIT, Integers, Rounding, Stack, certain, nearest, within_limit
from realnvp.nets.resnet import ChannelSplitNet

SCALE_BITS = 10
S = 1 << SCALE_BITS
FRACTION = 1 << 16  # coefficients of a mixing have 16 bits after the point
LARGEST_PIVOT = 4.0  # of the geometric mean, where pivots near to it leave L or U too large

Part = tuple[slice, slice] | Tensor
Conditioned = Tensor | None


class Step(Protocol):
    """A map of integers, int64 (B, C, H, W), that pops and pushes digits.

    context: the embedded condition, (B, k), of a conditional flow.
    """

    def forward(self, x: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        """From data to noise. Ambiguous, Unfit: the images, with their noise, cannot be coded."""

    def inverse(self, z: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        """x of forward(x), and the stack as it was."""

    def constants(self) -> Iterator[Integers]:
        """The integers that the step was rounded to, which must be equal on all machines."""


class Several:
    """Steps one after the other."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    def forward(self, x: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        for step in self.steps:
            x = step.forward(x, stack, context)
        return x

    def inverse(self, z: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        for step in reversed(self.steps):
            z = step.inverse(z, stack, context)
        return z

    def constants(self) -> Iterator[Integers]:
        for step in self.steps:
            yield from step.constants()


class OfPart:
    """The step of a part of x; the rest stays."""

    def __init__(self, layer: Nested, step: Step) -> None:
        self.layer, self.step = layer, step

    def forward(self, x: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        return self.layer.whole(x, self.step.forward(self.layer.part(x), stack, context))

    def inverse(self, z: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        return self.layer.whole(z, self.step.inverse(self.layer.part(z), stack, context))

    def constants(self) -> Iterator[Integers]:
        return self.step.constants()


class Shift:
    """Z = X - round(mean / delta). A scale of each channel changes delta alone, and costs nothing.

    mean: (C,), as delta.
    """

    def __init__(self, mean: Tensor, delta: Tensor) -> None:
        self.mean = nearest(mean / delta)[:, None, None]

    def forward(self, x: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        return within_limit(x - self.mean)

    def inverse(self, z: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        return z + self.mean

    def constants(self) -> Iterator[Integers]:
        yield self.mean.numpy()


class Coupled:
    """A coupling: Z = X R / S + round(m / delta), with R = round(S e^l), or S where it is additive.

        y = R X + d, with d < R popped;    Z = floor(y / S), with y mod S pushed

    This modular scale transform [van den Berg et al. 2021, IDF++] is exact for any R.
    """

    def __init__(self, layer: Coupling, delta: Tensor) -> None:
        self.layer, self.delta, self.step = layer, delta, of_channels(delta)[:, None, None]
        # An exact network sees the step in float32: that is equal on all machines.
        self.seen = self.step.float().double() if exact_nets(layer) else self.step

    def forward(self, x: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        changed, ratio, shift = self._predicted(x, context, certain)
        part = x[changed]
        if ratio is not None:
            part = scaled(part, ratio, stack)
            stretched = ratio.float().div_(S).log2_().reshape(len(x), ratio.numel() // len(x))
            stack.bits -= stretched.sum(1, dtype=torch.float64).numpy()
        return _with(x, changed, within_limit(part + shift))

    def inverse(self, z: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        changed, ratio, shift = self._predicted(z, context, nearest)
        part = z[changed] - shift
        return _with(z, changed, part if ratio is None else unscaled(part, ratio, stack))

    def _predicted(
        self, x: Tensor, context: Conditioned, rounded: Rounding
    ) -> tuple[Part, Tensor | None, Tensor]:
        """The part that changes, R of its numbers (None: it is additive), and their shifts."""
        changed, (shift, *raw) = self._network_output(x, context)
        shift = rounded(shift / self.step.expand_as(x)[changed])
        if self.layer.transform is Additive:
            return changed, None, shift
        bound = self.layer.bound
        assert bound is not None
        scale = raw[0].tanh_().mul_(bound).exp_()
        return changed, rounded(scale.mul_(S).clamp_(1, 1 << 16)), shift

    def _network_output(self, x: Tensor, context: Conditioned) -> tuple[Part, tuple[Tensor, ...]]:
        """The part that changes, and the network's output for it, from the middles of the cells:
        m, or m and raw l.
        """
        net, mask = self.layer.net, self.layer.mask(x.shape, x.device)
        condition = () if context is None else (context,)
        if isinstance(net, ChannelSplitNet):
            kept, half = net.halves(x.shape[1])
            output = net.net((x[:, kept] + 0.5) * self.seen[kept], mask, *condition)
            return (slice(None), half), output.split(x.shape[1] // 2, dim=1)
        changed = ~mask.expand_as(x)
        output = net(((x + 0.5) * self.seen).where(mask, 0), mask, *condition)
        return changed, tuple(part[changed] for part in output.split(x.shape[1], dim=1))

    def constants(self) -> Iterator[Integers]:
        """The integers of the exact network, and the bits of the steps that it sees."""
        for net in exact_nets(self.layer):
            yield self.delta.float().view(torch.int32).long().numpy()
            yield from net.constants()


def scaled(x: Tensor, ratio: Tensor, stack: Stack) -> Tensor:
    """Z = floor(y / S) of y = R X + d: d is popped, y mod S pushed."""
    ratios = ratio.flatten().numpy()
    y = ratios * x.flatten().numpy() + stack.pop(ratios)
    stack.push(y & (S - 1), np.full_like(y, S))
    return torch.from_numpy(y >> SCALE_BITS).view_as(x)


def unscaled(z: Tensor, ratio: Tensor, stack: Stack) -> Tensor:
    """Undo `scaled`."""
    numbers, ratios = z.flatten().numpy(), ratio.flatten().numpy()
    y = (numbers << SCALE_BITS) + stack.pop(np.full_like(numbers, S))
    x = np.floor(y / ratios).astype(np.int64)  # exact, since abs y < 2^51
    stack.push(y - ratios * x, ratios)
    return torch.from_numpy(x).view_as(z)


def _with(x: Tensor, part: Part, values: Tensor) -> Tensor:
    """x with other values in a part."""
    z = x.clone()
    z[part] = values
    return z


def of_channels(delta: Tensor) -> Tensor:
    """(C,): delta, which must not depend on the place. ValueError: it does, or is no number."""
    if not (delta == delta[:, :1, :1]).all():
        raise ValueError("a channel's scale is no number")
    return delta[:, 0, 0]


class Lift:
    """X_i += round(sum over j > i of U_ij (X_j + 1/2)), and the transpose order for j < i.

    It sees T = 2 X + 1, float64, twice the middle of the cell.

    U: strictly triangular, (C, C). All of it is a product of integers below 2^53, so it is exact in
    float64, whatever the order of the sums.
    """

    def __init__(self, matrix: Tensor, *, upper: bool) -> None:
        self.matrix = (matrix * FRACTION).round()
        self.half = self.matrix / (2 * FRACTION)
        self.order = range(len(matrix)) if upper else range(len(matrix) - 1, -1, -1)
        self.upper = upper
        if not self.matrix.abs().sum(1).max() * (2 * LIMIT + 1) < 1 << 52:
            raise ValueError("a mixing of its channels is too uneven")

    def forward(self, t: Tensor) -> Tensor:
        """t, (B, C, N). Unfit: beyond `LIMIT`."""
        return within_limit((self.half @ t).add_(0.5).floor_().add_(t / 2)).mul_(2)

    def inverse(self, t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """t, (C, N), overwritten channel by channel: each needs those that are known by then."""
        half = self.half.numpy()
        for i in reversed(self.order):
            known = slice(i + 1, None) if self.upper else slice(0, i)
            added = half[i, known] @ t[known]
            added += 0.5
            t[i] -= 2 * np.floor(added, out=added)
        return t


class Mix:
    """z = W x at each pixel, as P L D U Q of W diag(delta).

    P, Q: permutations. U, L: unit triangular, lifted (`Lift`). D: its signs turn cells around, its
    magnitudes are the new delta.

    weight: (C, C). delta: (C,).
    large: with large pivots. False: only where even ones leave L or U too large.
    """

    def __init__(self, weight: Tensor, delta: Tensor, *, large: bool = False) -> None:
        for most in (LARGEST_PIVOT,) if large else (None, LARGEST_PIVOT):
            with suppress(ValueError):
                self._factored(*even_ldu(weight * delta, most))
                return
        self._factored(*even_ldu(weight * delta, math.inf))

    def _factored(
        self, rows: Tensor, lower: Tensor, diagonal: Tensor, upper: Tensor, columns: Tensor
    ) -> None:
        self.delta = torch.empty_like(diagonal)
        self.delta[rows] = diagonal.abs()
        self.rows, self.columns = rows, columns
        self.negative = (diagonal < 0)[:, None]
        self.sign = torch.where(self.negative, -1.0, 1.0).double()
        self.upper = Lift(upper, upper=True)
        self.lower = Lift(lower * diagonal.abs() / diagonal.abs()[:, None], upper=False)

    def forward(self, x: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        t = self.upper.forward(2 * x.flatten(2).index_select(1, self.columns).double() + 1)
        t = self.lower.forward(t * self.sign)
        return t.sub_(1).div_(2).long()[:, self.rows.argsort()].view_as(x)

    def inverse(self, z: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        t = 2 * z.transpose(0, 1).flatten(1)[self.rows].double() + 1
        found = self.upper.inverse(self.lower.inverse(t.numpy()) * self.sign.numpy())
        x = torch.from_numpy((found - 1) / 2).long()[self.columns.argsort()]
        return x.view(-1, len(z), *z.shape[2:]).transpose(0, 1)

    def constants(self) -> Iterator[Integers]:
        for each in (self.rows, self.columns, self.negative, self.upper.matrix, self.lower.matrix):
            yield each.long().numpy()


def even_ldu(
    matrix: Tensor, most: float | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows, L, D, U, columns: matrix[rows][:, columns] = (1 + L) diag(D) (1 + U).

    L and U are strictly triangular. Each pivot is the entry nearest to the geometric mean of the
    pivots that are left, so that no delta drifts away from the others over many mixings.

    most: a pivot is the largest entry up to so many times this mean, so that L and U are small.
    """
    size = len(matrix)
    left, rows = matrix.double().clone(), torch.arange(size, device=matrix.device)
    columns = rows.clone()
    log_det = torch.linalg.slogdet(left).logabsdet
    for k in range(size):
        logs = left[k:, k:].abs().log()
        above = logs - log_det / (size - k)
        distance = above.abs()
        if most and (above <= math.log(most)).any():
            distance = torch.where(above <= math.log(most), -above, math.inf)
        i, j = (int(at) + k for at in divmod(int(distance.argmin()), size - k))
        log_det = log_det - left[i, j].abs().log()
        left[[k, i]], rows[[k, i]] = left[[i, k]], rows[[i, k]]
        left[:, [k, j]], columns[[k, j]] = left[:, [j, k]], columns[[j, k]]
        left[k + 1 :, k] /= left[k, k]
        left[k + 1 :, k + 1 :] -= left[k + 1 :, k, None] * left[k, k + 1 :]
    diagonal = left.diag()
    return rows, left.tril(-1), diagonal, (left / diagonal[:, None]).triu(1), columns
