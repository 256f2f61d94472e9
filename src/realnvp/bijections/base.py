"""The protocol that every bijection keeps, and composition."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from realnvp.moments import Recomputing, stored_moments


class Bijection(nn.Module, ABC):
    """An invertible map f of a batch x, shape (B, ...), from data to noise.

    Laws, which one contract test checks for every subclass and for composed flows:
      z, log_det = f(x)     z.shape == x.shape, log_det.shape == (B,)
      f.inverse(z) == x     in eval mode
      log_det[i] == log |det dz[i]/dx[i]|
      each example is mapped on its own, in eval mode
    """

    recompute = False
    """Whether a chain that trains keeps x alone of this part and computes the rest again for the gradient: `recompute`."""

    starts_from_data = False
    """Whether this part can start from a batch that it sees."""

    starting = False
    """Whether it does so with the next one: `starting`."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = f(x) and log |det dz/dx| of each example."""

    def inverse(self, z: Tensor) -> Tensor:
        """x with f(x) = z. RuntimeError in training mode, where batch norm's moments depend on the batch."""
        if self.training:
            raise RuntimeError("inverse needs eval mode: call .eval() first")
        return self._inverse(z)

    @abstractmethod
    def _inverse(self, z: Tensor) -> Tensor:
        """What a subclass writes: x with f(x) = z."""


class Chain(Bijection):
    """Bijections one after the other: Chain([f, g])(x) is g(f(x))."""

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        for bijection in self.bijections:
            x, term = _again(bijection, x) if self.training and bijection.recompute else bijection(x)
            log_det = log_det + term
        return x, log_det

    def _inverse(self, z: Tensor) -> Tensor:
        for bijection in reversed(self.bijections):
            assert isinstance(bijection, Bijection)
            z = bijection.inverse(z)
        return z


def _again(bijection: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """bijection(x), run a second time when the gradient asks for what lies between x and z. Batch norm's moments move once."""
    again = Recomputing(stored_moments(bijection))
    z, log_det = checkpoint(
        bijection, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (nullcontext(), again)
    )
    return z, log_det


def like(module: nn.Module, default: Tensor | None = None) -> Tensor:
    """A tensor of the module, for its dtype and device; where it has none the default, or an empty one on the CPU."""
    return next(chain(module.parameters(), module.buffers()), torch.empty(0) if default is None else default)


def in_float64(x: Tensor) -> Tensor:
    """x in float64: where it lies, or on the CPU where its device, Apple's, has no such numbers."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def predicted(net: nn.Module, seen: Tensor, mask: Tensor) -> Tensor:
    """net(seen, mask) in seen's type. The network has its own, float32 or bfloat16 say; what touches x and log_det has x's."""
    out: Tensor = net(seen.to(like(net, seen).dtype), mask)
    return out.to(seen.dtype)


def sum_per_example(x: Tensor) -> Tensor:
    """(B,): the sum of each example's entries."""
    return torch.sum(x.flatten(1), dim=1)
