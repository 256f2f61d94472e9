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

from realnvp.bijections import AdditiveCoupling, AffineCoupling, Bijection, Squeezed
from realnvp.bijections.multiscale import even_squares, from_squares, odd_squares
from realnvp.codec.exact import exact_nets
from realnvp.codec.rounding import Rounding, certain, nearest, within_limit
from realnvp.codec.stack import Integers, Stack
from realnvp.networks.resnet import KeptHalf

SCALE_BITS = 10
S = 1 << SCALE_BITS

Part = tuple[slice, slice] | Tensor
Given = Tensor | None


class Step(Protocol):
    """A map of integers, int64 (B, C, H, W), that pops and pushes digits.

    given: what the networks of a conditional flow see, (B, k).
    """

    def forward(self, x: Tensor, stack: Stack, given: Given = None) -> Tensor:
        """From data to noise. Ambiguous, Unfit: the images, with their noise, cannot be coded."""

    def inverse(self, z: Tensor, stack: Stack, given: Given = None) -> Tensor:
        """x of forward(x), and the stack as it was."""

    def constants(self) -> Iterator[Integers]:
        """The integers that the step was rounded to, which must be equal on all machines."""


class Several:
    """Steps one after the other."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    def forward(self, x: Tensor, stack: Stack, given: Given = None) -> Tensor:
        for step in self.steps:
            x = step.forward(x, stack, given)
        return x

    def inverse(self, z: Tensor, stack: Stack, given: Given = None) -> Tensor:
        for step in reversed(self.steps):
            z = step.inverse(z, stack, given)
        return z

    def constants(self) -> Iterator[Integers]:
        for step in self.steps:
            yield from step.constants()


class InSquares:
    """unsqueeze . step . squeeze."""

    def __init__(self, layer: Squeezed, step: Step) -> None:
        self.layer, self.step = layer, step

    def forward(self, x: Tensor, stack: Stack, given: Given = None) -> Tensor:
        return self.layer._unsqueeze(self.step.forward(self.layer._squeeze(x), stack, given))

    def inverse(self, z: Tensor, stack: Stack, given: Given = None) -> Tensor:
        return self.layer._unsqueeze(self.step.inverse(self.layer._squeeze(z), stack, given))

    def constants(self) -> Iterator[Integers]:
        return self.step.constants()


class OfOddSquares:
    """The step for half of x; the other half stays, latent."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def forward(self, x: Tensor, stack: Stack, given: Given = None) -> Tensor:
        return from_squares(even_squares(x), self.step.forward(odd_squares(x), stack, given))

    def inverse(self, z: Tensor, stack: Stack, given: Given = None) -> Tensor:
        return from_squares(even_squares(z), self.step.inverse(odd_squares(z), stack, given))

    def constants(self) -> Iterator[Integers]:
        return self.step.constants()


class Shift:
    """Z = X - round(mean / delta). A scale of each channel changes delta alone, and costs nothing.

    mean: (C,), as delta.
    """

    def __init__(self, mean: Tensor, delta: Tensor) -> None:
        self.mean = nearest(mean / delta)[:, None, None]

    def forward(self, x: Tensor, stack: Stack, given: Given = None) -> Tensor:
        return within_limit(x - self.mean)

    def inverse(self, z: Tensor, stack: Stack, given: Given = None) -> Tensor:
        return z + self.mean

    def constants(self) -> Iterator[Integers]:
        yield self.mean.numpy()


class Shear:
    """The additive coupling: Z = X + round(m / delta)."""

    def __init__(self, layer: AdditiveCoupling, delta: Tensor) -> None:
        self.layer, self.delta, self.step = layer, delta, even(delta)
        self.seen = even(seen_step(layer, delta))

    def forward(self, x: Tensor, stack: Stack, given: Given = None) -> Tensor:
        changed, shift = self._predicted(x, given, certain)
        return _with(x, changed, within_limit(x[changed] + shift))

    def inverse(self, z: Tensor, stack: Stack, given: Given = None) -> Tensor:
        changed, shift = self._predicted(z, given, nearest)
        return _with(z, changed, z[changed] - shift)

    def _predicted(self, x: Tensor, given: Given, rounded: Rounding) -> tuple[Part, Tensor]:
        """What changes, and by how much."""
        changed, (shift,) = of_changed(self.layer, x, self.seen, given)
        return changed, rounded(shift / repeated(self.step, x).expand_as(x)[changed])

    def constants(self) -> Iterator[Integers]:
        return coupling_constants(self.layer, self.delta)


class Scale:
    """The affine coupling, by R / S with R = round(S e^l), and then a shift by round(m / delta).

        y = R X + d, with d < R popped;    Z = floor(y / S), with y mod S pushed

    This modular scale transform [van den Berg et al. 2021, IDF++] is exact for any R.
    """

    def __init__(self, layer: AffineCoupling, delta: Tensor) -> None:
        self.layer, self.delta, self.step = layer, delta, even(delta)
        self.seen = even(seen_step(layer, delta))

    def forward(self, x: Tensor, stack: Stack, given: Given = None) -> Tensor:
        changed, ratio, shift = self._predicted(x, given, certain)
        numbers = x[changed].flatten().numpy()
        for row in stack.rows(len(numbers)):
            r = ratio[row]
            y = r * numbers[row] + stack.pop(r)
            numbers[row] = y >> SCALE_BITS
            stack.push_bits(y & (S - 1), SCALE_BITS)
        stretched = torch.from_numpy(ratio).float().div_(S).log2_()
        stack.bits -= stretched.view(len(x), -1).sum(1, dtype=torch.float64).numpy()
        scaled = torch.from_numpy(numbers).view(shift.shape)
        return _with(x, changed, within_limit(scaled + shift))

    def inverse(self, z: Tensor, stack: Stack, given: Given = None) -> Tensor:
        changed, ratio, shift = self._predicted(z, given, nearest)
        numbers = (z[changed] - shift).flatten().numpy()
        for row in reversed(stack.rows(len(numbers))):
            r = ratio[row]
            y = (numbers[row] << SCALE_BITS) + stack.pop_bits(len(r), SCALE_BITS)
            numbers[row] = np.floor(y / r)  # exact, since abs y < 2^51
            stack.push(y - r * numbers[row], r)
        return _with(z, changed, torch.from_numpy(numbers).view(shift.shape))

    def _predicted(
        self, x: Tensor, given: Given, rounded: Rounding
    ) -> tuple[Part, Integers, Tensor]:
        """What changes, R of each number that does, and the shifts."""
        changed, (shift, raw) = of_changed(self.layer, x, self.seen, given)
        log_scale = raw.tanh_().mul_(self.layer.bound)
        ratio = rounded(log_scale.exp_().mul_(S).clamp_(1, 1 << 16))
        shift = rounded(shift / repeated(self.step, x).expand_as(x)[changed])
        return changed, ratio.flatten().numpy(), shift

    def constants(self) -> Iterator[Integers]:
        return coupling_constants(self.layer, self.delta)


def of_changed(
    layer: AdditiveCoupling | AffineCoupling, x: Tensor, seen: Tensor, given: Given
) -> tuple[Part, tuple[Tensor, ...]]:
    """What a coupling changes of x, and what its network says of that part: m, or m and raw l.

    seen: the step of each number, as the network sees it.
    """
    net, mask = layer.net, layer.mask(x.shape, x.device)
    condition = () if given is None else (given,)
    if isinstance(net, KeptHalf):
        kept, half = net.halves(x.shape[1])
        said = net.net(middles(x[:, kept], seen[kept]), mask, *condition)
        return (slice(None), half), said.split(x.shape[1] // 2, dim=1)
    changed = ~mask.expand_as(x)
    said = net(middles(x, seen).where(mask, 0), mask, *condition)
    return changed, tuple(part[changed] for part in said.split(x.shape[1], dim=1))


def _with(x: Tensor, part: Part, values: Tensor) -> Tensor:
    """x with other values in a part."""
    z = x.clone()
    z[part] = values
    return z


def seen_step(layer: Bijection, delta: Tensor) -> Tensor:
    """delta as the layer's network sees it: of float32, so that it is the same on all machines."""
    return delta.float().double() if exact_nets(layer) else delta


def coupling_constants(layer: Bijection, delta: Tensor) -> Iterator[Integers]:
    """The integers of a coupling's exact network, and the bits of the steps that it sees."""
    for net in exact_nets(layer):
        yield delta.float().view(torch.int32).long().numpy()
        yield from net.constants()


def middles(x: Tensor, delta: Tensor) -> Tensor:
    """The middle of each cell, float64: what the networks see."""
    return (x + 0.5) * repeated(delta, x)


def even(delta: Tensor) -> Tensor:
    """delta, as (C, 1, 1) where it does not depend on the place."""
    first = delta[:, :1, :1]
    return first if torch.equal(first.expand_as(delta), delta) else delta


def repeated(delta: Tensor, x: Tensor) -> Tensor:
    """delta of each number of x."""
    if delta.shape[-1] == 1:
        return delta
    return delta.repeat(1, x.shape[-2] // delta.shape[-2], x.shape[-1] // delta.shape[-1])
