"""Composition."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection


class Chain(Bijection):
    """Bijections one after the other: Chain([f, g])(x) is g(f(x))."""

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def forward(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        for bijection in self.bijections:
            x, term = bijection(x, given)
            log_det = log_det + term
        return x, log_det

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros_like(x)
        for bijection in self.bijections:
            assert isinstance(bijection, Bijection)
            x, terms = bijection.forward_map(x, given)
            log_det += terms
            del terms  # of a large image they take as much memory as the image
        return x, log_det

    def _inverse(self, z: Tensor, given: Tensor | None = None) -> Tensor:
        for bijection in reversed(self.bijections):
            assert isinstance(bijection, Bijection)
            z = bijection.inverse(z, given)
        return z
