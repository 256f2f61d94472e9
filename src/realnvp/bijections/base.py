"""The protocol that every bijection keeps, and composition."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Bijection(nn.Module, ABC):
    """An invertible map f of a batch x, shape (B, ...), from data to noise.

    One contract test checks these laws for every subclass and for composed flows:
      z, log_det = f(x)     z.shape == x.shape, log_det.shape == (B,)
      f.inverse(z) == x     in eval mode
      log_det[i] == log |det dz[i]/dx[i]|
      each example is mapped on its own, in eval mode
    """

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = f(x) and log |det dz/dx| of each example."""

    def inverse(self, z: Tensor) -> Tensor:
        """x with f(x) = z. RuntimeError in training mode, where batch norm depends on the batch."""
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
            x, term = bijection(x)
            log_det = log_det + term
        return x, log_det

    def _inverse(self, z: Tensor) -> Tensor:
        for bijection in reversed(self.bijections):
            assert isinstance(bijection, Bijection)
            z = bijection.inverse(z)
        return z


def sum_per_example(x: Tensor) -> Tensor:
    """(B,): the sum of each example's entries."""
    return torch.sum(x.flatten(1), dim=1)
