"""The layers of a flow as maps of integers: what each does to the grid, bit for bit invertible.

An integer X with the step delta stands for the cell [X, X + 1) delta of the real line. The networks
see its middle. delta is a float64 tensor (C, D, D), which repeats over the image: D is the divisor
of the sides. So squeezes act on it as they act on x.

A layer that stretches a cell needs new bits to say where in the stretched cell x is: it pops them.
A layer that shrinks cells, so that several fall into one, pushes which of them it was. On average
the bits are the layer's log-det.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections import Additive, Coupling
from realnvp.bijections.multiscale import Nested
from realnvp.codec.exact_nets import exact_nets
from realnvp.codec.rounding import Rounding, certain, nearest, within_limit
from realnvp.codec.stack import Integers, Stack
from realnvp.nets.resnet import ChannelSplitNet

SCALE_BITS = 10
S = 1 << SCALE_BITS

Part = tuple[slice, slice] | Tensor
Conditioned = Tensor | None


class Step(Protocol):
    """A map of integers, int64 (B, C, H, W), that pops and pushes digits.

    given: what the networks of a conditional flow see, (B, k).
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
            stretched = ratio.float().div_(S).log2_().reshape(len(x), -1)
            stack.bits -= stretched.sum(1, dtype=torch.float64).numpy()
        return _with(x, changed, within_limit(part + shift))

    def inverse(self, z: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        changed, ratio, shift = self._predicted(z, context, nearest)
        part = z[changed] - shift
        return _with(z, changed, part if ratio is None else unscaled(part, ratio, stack))

    def _predicted(
        self, x: Tensor, context: Conditioned, rounded: Rounding
    ) -> tuple[Part, Tensor | None, Tensor]:
        """What changes, R of each number that does (None: it is additive), and the shifts."""
        changed, (shift, *raw) = self._said(x, context)
        shift = rounded(shift / self.step.expand_as(x)[changed])
        if self.layer.transform is Additive:
            return changed, None, shift
        bound = self.layer.bound
        assert bound is not None
        scale = raw[0].tanh_().mul_(bound).exp_()
        return changed, rounded(scale.mul_(S).clamp_(1, 1 << 16)), shift

    def _said(self, x: Tensor, context: Conditioned) -> tuple[Part, tuple[Tensor, ...]]:
        """What changes, and what the network says of it, which sees the middles of the cells: m, or
        m and raw l.
        """
        net, mask = self.layer.net, self.layer.mask(x.shape, x.device)
        condition = () if context is None else (context,)
        if isinstance(net, ChannelSplitNet):
            kept, half = net.halves(x.shape[1])
            said = net.net((x[:, kept] + 0.5) * self.seen[kept], mask, *condition)
            return (slice(None), half), said.split(x.shape[1] // 2, dim=1)
        changed = ~mask.expand_as(x)
        said = net(((x + 0.5) * self.seen).where(mask, 0), mask, *condition)
        return changed, tuple(part[changed] for part in said.split(x.shape[1], dim=1))

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
