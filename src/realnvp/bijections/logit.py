"""From pixels to reals (section 4.1)."""

import math

import torch
from torch import Tensor

from realnvp.bijections.base import Bijection
from realnvp.bijections.entries import sum_per_example


class Logit(Bijection):
    """z = log p - log(1 - p), p = a + (1 - 2a) x / levels.

    log_det = sum of log(1 - 2a) - log levels - log p - log(1 - p).

    x = v + u is in data units, [0, levels). Since 1/levels is in the log-det, bits/dim needs no
    constants anywhere else. Pixels with p outside [0, 1] have density 0: log_det is -inf.

    p keeps away from both ends, 0 and 1; the paper's a + (1 - a) x reaches 1 in float32.
    """

    def __init__(self, *, alpha: float = 0.05, levels: int = 256) -> None:
        super().__init__()
        self.alpha = alpha
        self.levels = levels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, terms = self.forward_map(x)
        return z, sum_per_example(terms)

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * x / self.levels
        eps = torch.finfo(x.dtype).eps
        outside = (p < -4 * eps) | (p > 1 + 4 * eps)
        p = p.clamp(eps, 1 - eps)  # what rounding pushed onto 0 or 1 comes back
        log_p, log_q = p.log(), torch.log1p(-p)
        constant = math.log1p(-2 * self.alpha) - math.log(self.levels)
        return log_p - log_q, (constant - log_p - log_q).masked_fill(outside, -math.inf)

    def _inverse(self, z: Tensor) -> Tensor:
        return self.levels * (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)
