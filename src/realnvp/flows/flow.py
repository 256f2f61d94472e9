"""A normalizing flow: a bijection and a prior make an exact density (eq 2-3)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection
from realnvp.bijections.precision import float64_like, reference_tensor
from realnvp.config import Config, check_divisible
from realnvp.device import full_precision
from realnvp.noise import Purpose, generator

ROWS = 1024  # of a table at once


class Prior(Protocol):
    """The distribution of z."""

    def log_prob(self, z: Tensor) -> Tensor:
        """(B,): nats."""

    def sample(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """z of this shape: one for images, (C, H, W), many for rows, (n, D)."""


def images_at_once(shape: Sequence[int]) -> int:
    """How many images of this shape to compute at once, so that memory does not grow with their number or size: 64 of 64x64.

    Of a table's rows, (D,), so many that Python's share of the time is small, and their hidden units still fit into caches.
    """
    return max(1, 64**3 // math.prod(shape[1:])) if len(shape) > 1 else ROWS


class Flow(nn.Module):
    """The density of x in data units: for images v + u in [0, levels), u ~ U[0, 1) the dequantisation noise.

    config, if any, says which shapes fit and what `sample` draws.
    The type of x is that of z and log-det, at least the weights'; the weights' is that of the networks. So x.double() gives the
    density and the inverse of a float32 flow without rounding between the layers.
    """

    exact = True
    """False for what `realnvp.fast` makes: no number of it is to be reported."""

    def __init__(self, bijection: Bijection, prior: Prior, config: Config | None = None) -> None:
        super().__init__()
        self.bijection = bijection
        self.prior = prior
        self.config = config

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,): log p(x) = log p_Z(f(x)) + log |det df/dx| in nats (eq 3); x is (B, C, H, W) or (B, D), in data units.

        -inf where the density is zero. ValueError if the shape does not fit.
        """
        self.check_batch(x)
        z, log_det = self.bijection(x)
        nats: Tensor = self.prior.log_prob(z) + log_det
        return nats

    forward = log_prob

    def encode(self, x: Tensor) -> Tensor:
        """z = f(x), of x's shape."""
        self.check_batch(x)
        z: Tensor = self.bijection(x)[0]
        return z

    def decode(self, z: Tensor) -> Tensor:
        """x = g(z), of z's shape, in data units and not rounded. RuntimeError in training mode."""
        self.check_batch(z)
        return self.bijection.inverse(z)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        shape: Sequence[int] | None = None,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        first: int = 0,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """(n, *shape): exact samples x = g(temperature * z), z ~ prior, in data units and not rounded.

        Without gradients, as torch.distributions' sample; `decode` has them.
        Sample i is a function of (seed, first + i), so chunks with first = 0, 64, 128 ... are the samples of one large call.
        shape defaults to the training data's; a larger one of images extrapolates (appendix C). dtype: the weights' by default.
        """
        shape = self.shape_of_one(shape)
        if n < 1:
            raise ValueError(f"n: must be at least 1, got {n}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature: must be a number of at least 0, got {temperature}")
        kind, size, end = reference_tensor(self).dtype if dtype is None else dtype, images_at_once(shape), first + n
        chunks = [range(start, min(start + size, end)) for start in range(first, end, size)]
        return torch.cat([self.decode(temperature * self.latents(chunk, shape, seed)).to(kind) for chunk in chunks])

    def shape_of_one(self, shape: Sequence[int] | None = None) -> Sequence[int]:
        """The shape of one x: the one given, else the training data's; ValueError if there is none."""
        if shape is not None:
            return shape
        if self.config is None or self.config.data.shape is None:
            raise ValueError("shape: this flow has no training shape, so give one")
        return self.config.data.shape

    def latents(self, indices: range, shape: Sequence[int], seed: int) -> Tensor:
        """(n, *shape): z ~ prior, each a function of the seed and its index."""
        if len(shape) > 1:
            z = torch.stack([self.prior.sample(shape, generator(seed, Purpose.SAMPLE, index=i)) for i in indices])
            return z.to(float64_like(self))
        # A generator for each row would take longer than all the rest.
        blocks = range(indices.start // ROWS, (indices.stop - 1) // ROWS + 1)
        z = torch.cat([self.prior.sample((ROWS, *shape), generator(seed, Purpose.SAMPLE, index=i)) for i in blocks])
        return z[indices.start - ROWS * blocks.start :][: len(indices)].to(float64_like(self))

    def check_batch(self, x: Tensor) -> None:
        """ValueError if x is no batch for this flow: of its type, on its device, of its shape."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = f"{type(x).__name__} of {getattr(x, 'dtype', 'no type')}"
            raise ValueError(f"the flow takes floating-point tensors (pixels: v + u), got {got}; see realnvp.bits_per_dim")
        mine = reference_tensor(self, x)
        fits = torch.promote_types(x.dtype, mine.dtype) == x.dtype
        for what, ok, own, other in (("of", fits, mine.dtype, x.dtype), ("on", mine.device == x.device, mine.device, x.device)):
            if not ok:
                raise ValueError(f"the flow is {what} {own}, the data {other}: bring one to the other with .to")
        if self.config is None or self.config.data.shape is None:
            return
        channels, *sides = self.config.data.shape
        if x.ndim != 2 + len(sides) or x.shape[1] != channels or x.shape[0] < 1:
            raise ValueError(f"expected a batch of shape (B, {channels}{', H, W' if sides else ''}), got {tuple(x.shape)}")
        if sides:
            check_divisible(x.shape, self.config.model)


def config_of(flow: Flow) -> Config:
    """The configuration that the flow was built from; ValueError if it has none."""
    if flow.config is None:
        raise ValueError("flow.config: this flow has none; `realnvp.build` makes flows that do")
    return flow.config


class StandardNormal(nn.Module):
    """N(0, I). A prior is anything with these two methods."""

    def log_prob(self, z: Tensor) -> Tensor:
        """(B,): log N(z; 0, I) in nats."""
        return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def sample(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """z of this shape, float64."""
        return torch.from_numpy(generator.standard_normal(tuple(shape)))


def refuse_fast(flow: Flow, verb: str) -> None:
    """ValueError if `realnvp.fast` made the flow; verb: what to do with the original instead."""
    if not flow.exact:
        words = "this flow was made by realnvp.fast, in low precision"
        raise ValueError(f"{words}: {verb} the flow that it was made from")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it: eval mode, no gradient, full precision. Afterwards each submodule is in the mode that it was in."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with full_precision(), torch.no_grad(), torch.autocast(reference_tensor(module).device.type, enabled=False):
            yield
    finally:
        for child, mode in modes:
            child.training = mode
