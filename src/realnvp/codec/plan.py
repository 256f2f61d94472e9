"""A flow as maps of integers, exact by a stack of digits: it encodes and decodes a batch."""

import copy
import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections import (
    ActNorm,
    BatchNorm,
    Bijection,
    Chain,
    Coupling,
    InvertibleLinear,
    Logit,
    VariationalDequantization,
)
from realnvp.bijections.multiscale import Nested
from realnvp.codec.dequantize import Cells, borrowed
from realnvp.codec.exact_nets import make_exact
from realnvp.codec.integers import Integers, Stack
from realnvp.codec.prior import Normal
from realnvp.codec.steps import Conditioned, Coupled, Mix, OfPart, Several, Shift, Step, of_channels
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, config_of
from realnvp.moments import EPS


class IntegerFlow:
    """A flow of images, float64 on the CPU, in steps of 2^-bits on the logit's scale.

    Its networks are `exact_nets.py`'s. They are too coarse for pixels of 16 bits, whose networks
    compute in float64.
    """

    def __init__(self, flow: Flow, bits: int) -> None:
        self.levels = config_of(flow).levels
        self.dtype = pixel_type(self.levels)
        self.classes = config_of(flow).model.context_dim
        """How many classes the flow is given; 0: none."""
        if self.classes > 1 << 16:
            raise ValueError(f"{self.classes} classes are too many for the codec")
        self.original, self.flow = flow, copy.deepcopy(flow).double().cpu().eval()
        if self.levels <= 256:
            make_exact(self.flow)
        try:
            with torch.no_grad():
                shape = config_of(flow).shape
                self.cells, self.steps, self.prior = self._rounded(shape[0], bits)
        except ValueError as error:
            raise ValueError(f"this flow has no form on integers: {error}") from None
        self.takes = config_of(flow).shape[0], flow.divisor
        """Channels of the images, and the divisor of their sides."""
        self.borrowed = borrowed(self.levels, bits)

    def _rounded(self, channels: int, bits: int) -> tuple[Cells, Step, Normal]:
        """The three parts, on the grid."""
        *noise, logit, f = _layers(self.flow.bijection)
        assert isinstance(logit, Logit)
        learned = next((x for x in noise if isinstance(x, VariationalDequantization)), None)
        sides = self.flow.divisor, self.flow.divisor
        delta = torch.full((channels, *sides), 2.0**-bits, dtype=torch.float64, device="cpu")
        cells = Cells(logit, learned, bits)
        steps, delta = integer_steps(f, delta, large=cells.oblique)
        return cells, steps, Normal(delta)

    def push(self, pixels: Tensor, stack: Stack, nonce: int) -> None:
        """Put images, int64 (B, C, H, W), on the stack; above them their likeliest classes.

        nonce: of their noise (`Cells`).
        """
        classes = likeliest(self.original, pixels.numpy()) if self.classes else None
        with torch.no_grad():
            context = self._seen(classes)
            x = self.cells.forward(pixels, stack, nonce, context)
            self.prior.push(self.steps.forward(x, stack, context), stack)
        if classes is not None:
            stack.push(classes, np.full_like(classes, self.classes))
            stack.bits += math.log2(self.classes)

    def pop(self, shape: torch.Size, stack: Stack, nonce: int) -> Tensor:
        """Take images of this shape from the stack."""
        classes = stack.pop(np.full(shape[0], self.classes)) if self.classes else None
        with torch.no_grad():
            context = self._seen(classes)
            x = self.steps.inverse(self.prior.pop(shape, stack), stack, context)
            return self.cells.inverse(x, stack, nonce, context)

    def _seen(self, classes: Integers | None) -> Conditioned:
        if classes is None or self.flow.condition is None:
            return None
        seen: Tensor = self.flow.condition(torch.from_numpy(classes))
        return seen

    def digest(self) -> bytes:
        """SHA-256 of all integers that the flow was rounded to."""
        found = hashlib.sha256()
        for part in (self.cells, self.steps, self.prior):
            for constant in part.constants():
                found.update(str(constant.shape).encode() + constant.astype("<i8").tobytes())
        return found.digest()


def likeliest(flow: Flow, images: Integers) -> Integers:
    """(B,): the class under which each image, (B, C, H, W), is likeliest."""
    pixels = images.astype(pixel_type(config_of(flow).levels))
    classes = range(config_of(flow).model.context_dim)
    each = [log_probs(flow, pixels, context=c).nan_to_num(-math.inf) for c in classes]
    return torch.stack(each).argmax(0).numpy()


def pixel_type(levels: int) -> np.dtype[Any]:
    """Of pixels with so many levels."""
    return np.dtype(np.uint8 if levels <= 256 else np.uint16)


def integer_steps(f: Bijection, delta: Tensor, *, large: bool = False) -> tuple[Step, Tensor]:
    """f on integers with the steps delta, (C, D, D), and the steps of its results.

    large: the pivots of mixings (`Mix`). Joint noise has them: its mixings see small differences.
    """
    match f:
        case Chain():
            steps = []
            for layer in _layers(f):
                step, delta = integer_steps(layer, delta, large=large)
                steps.append(step)
            return Several(steps), delta
        case Nested():
            inner, part = integer_steps(f.bijection, f.part(delta[None])[0], large=large)
            return OfPart(f, inner), f.whole(delta[None], part[None])[0]
        case ActNorm():
            return _normalized(f.mean, torch.exp(-f.log_scale), delta)
        case BatchNorm():
            return _normalized(f.moments.mean, (f.moments.var + EPS).rsqrt(), delta)
        case InvertibleLinear():
            mix = Mix(f.weight.detach(), of_channels(delta), large=large)
            return mix, mix.delta[:, None, None].expand_as(delta)
        case Coupling():
            return Coupled(f, delta), delta
    raise ValueError(f"{type(f).__name__} has none")


def _layers(chain: Bijection) -> list[Bijection]:
    assert isinstance(chain, Chain)
    return [layer for layer in chain.bijections if isinstance(layer, Bijection)]


def _normalized(mean: Tensor, scale: Tensor, delta: Tensor) -> tuple[Step, Tensor]:
    return Shift(mean, of_channels(delta)), delta * scale[:, None, None]
