"""Dequantisation noise that is learned (Ho et al. 2019, section 3.1), written as a bijection."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.special import ndtr, ndtri

from realnvp.bijections.base import Bijection, predicted, sum_per_example


class Dequantisation(Bijection):
    """z = v + Phi(e'), e' = exp(l) e + m, e = Phi^-1(u), for x = v + u, v = floor(x);  log_det = sum of l + (e^2 - e'^2) / 2.

    Phi is the distribution function of N(0, 1), so each cell [v, v + 1) is mapped to itself. With u ~ U[0, 1) the flow behind it
    sees noise u' ~ q(u' | v), and log p(x) is log p(v + u') - log q(u' | v): the bound of variational dequantisation, under the
    one kind of noise that everything else draws.
    net maps the pixels' levels, scaled to [-3, 3], 2x2 squares as channels, (B, 4C, H/2, W/2), to m and raw, (B, 8C, H/2, W/2);
    l = bound tanh(raw).
    """

    def __init__(self, net: nn.Module, *, levels: int, bound: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.levels = levels
        self.bound = nn.Parameter(torch.tensor(bound))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v, e, shift, log_scale = self._predict(x)
        moved = log_scale.exp() * e + shift
        return v + self._inside(ndtr(moved)), sum_per_example(log_scale + (e.square() - moved.square()) / 2)

    def _inverse(self, z: Tensor) -> Tensor:
        v, moved, shift, log_scale = self._predict(z)
        return v + self._inside(ndtr((moved - shift) * torch.exp(-log_scale)))

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """v, Phi^-1 of what is left, m, l."""
        v = x.floor()
        seen = pixel_unshuffle(6 * v / (self.levels - 1) - 3, 2)
        everything = torch.ones((), dtype=torch.bool, device=x.device)
        shift, raw = predicted(self.net, seen, everything).chunk(2, dim=1)
        return v, ndtri(self._inside(x - v)), pixel_shuffle(shift, 2), self.bound.to(x.dtype) * pixel_shuffle(raw, 2).tanh()

    def _inside(self, u: Tensor) -> Tensor:
        """u, away from 0 and 1 by what x = v + u can tell: else rounding would lead into the next cell, or to infinity."""
        least = self.levels * torch.finfo(u.dtype).eps
        return u.clamp(least, 1 - least)
