"""The protocol that every bijection keeps."""

from abc import ABC, abstractmethod
from inspect import signature
from typing import Any

from torch import Tensor, nn

from realnvp.bijections.entries import equal_shares


class Bijection(nn.Module, ABC):
    """An invertible map f of a batch x, shape (B, ...), from data to noise.

    One contract test checks these laws for every subclass and for composed flows:
      z, log_det = f(x)     z.shape == x.shape, log_det.shape == (B,)
      f.inverse(z) == x     in eval mode
      log_det[i] == log |det dz[i]/dx[i]|
      each example is mapped on its own, in eval mode
      f.forward_map(x)[1]   sums to log_det, has x's shape

    They hold for each condition `given`, (B, k). A subclass whose map depends on it takes it as the
    second parameter of `forward` and `_inverse`.
    """

    takes_given = False
    """Whether the map depends on a condition."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.takes_given = "given" in signature(cls.forward).parameters

    def __call__(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = f(x) and log |det dz/dx| of each example, given a condition."""
        if given is None or not self.takes_given:
            return super().__call__(x)
        return super().__call__(x, given)

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = f(x) and log |det dz/dx| of each example."""

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = f(x) and each entry's share of log_det, of x's shape. Here: equal shares."""
        z, log_det = self(x, given)
        return z, equal_shares(log_det, x)

    def inverse(self, z: Tensor, given: Tensor | None = None) -> Tensor:
        """x with f(x) = z. RuntimeError in training mode, where batch norm depends on the batch."""
        if self.training:
            raise RuntimeError("inverse (decode, sample) needs eval mode: call flow.eval() first")
        if given is None or not self.takes_given:
            return self._inverse(z)
        return self._inverse(z, given)  # type: ignore[call-arg]  # `takes_given`: it has one more

    @abstractmethod
    def _inverse(self, z: Tensor) -> Tensor:
        """What a subclass writes: x with f(x) = z."""
