"""A map of each entry alone that shifts, scales, skews and changes the weight of tails."""

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection
from realnvp.bijections.entries import sum_per_example
from realnvp.tools.moments import per_channel


class SinhArcsinh(Bijection):
    """z = sinh(exp(t) asinh(u) + e) with u = exp(l) x + m, of each entry (Jones & Pewsey 2009).

    log_det = sum of t + l + log(1 + z^2) / 2 - log(1 + u^2) / 2.

    x is (B, C, ...). Four weights for each channel, zeros in a fresh layer, the identity:
    shift m, log_scale l, skew e, log_tail t. t > 0: what is far out in x is further out in z.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.skew = nn.Parameter(torch.zeros(channels))
        self.log_tail = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, terms = self.forward_map(x)
        return z, sum_per_example(terms)

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        m, log_scale, e, t = self._weights(x)
        u = log_scale.exp() * x + m
        z = torch.sinh(t.exp() * torch.asinh(u) + e)
        return z, t + log_scale + (torch.log1p(z.square()) - torch.log1p(u.square())) / 2

    def _inverse(self, z: Tensor) -> Tensor:
        m, log_scale, e, t = self._weights(z)
        u = torch.sinh(torch.exp(-t) * (torch.asinh(z) - e))
        return torch.exp(-log_scale) * (u - m)

    def _weights(self, x: Tensor) -> list[Tensor]:
        return [
            per_channel(weight, x)
            for weight in (self.shift, self.log_scale, self.skew, self.log_tail)
        ]
