"""From pixels to reals (section 4.1)."""

import math
from math import prod

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection, DataDependentInit, sum_per_example
from realnvp.moments import EPS, MovingMoments, batch_moments, per_channel


class BatchNorm(Bijection):
    """z = (x - mean) / sqrt(var + eps) for each channel.

    log_det = -H W sum over channels of .5 log(var + eps).

    x is (B, C, ...). No gain and no shift. mean and var: `MovingMoments`, eq 15-16.
    """

    def __init__(self, channels: int, *, momentum: float = 0.0) -> None:
        super().__init__()
        self.moments = MovingMoments(channels, momentum=momentum)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = self._moments(x)
        log_det = -0.5 * (var + EPS).log().expand(x.shape[1:]).sum()
        return (x - mean) * (var + EPS).rsqrt(), log_det.expand(x.shape[0])

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, var = self._moments(x)
        return (x - mean) * (var + EPS).rsqrt(), -0.5 * (var + EPS).log().expand(x.shape)

    def _inverse(self, z: Tensor) -> Tensor:
        mean, var = self._moments(z)
        return z * (var + EPS).sqrt() + mean

    def _moments(self, x: Tensor) -> list[Tensor]:
        return [per_channel(moment, x) for moment in self.moments(x)]


class ActNorm(DataDependentInit):
    """z = (x - mean) exp(-log_scale) for each channel.

    log_det = -H W sum over channels of log_scale.

    x is (B, C, ...). mean and log_scale are weights, so training, evaluation and inverse agree,
    whatever the batch. A fresh layer is the identity. Inside `starting` the first batch sets both:
    exp(2 log_scale) = var + eps.
    """

    def __init__(self, channels: int, *, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self._weights(x)
        log_det = -prod(x.shape[2:]) * log_scale.sum()
        return (x - mean) * torch.exp(-log_scale), log_det.expand(x.shape[0])

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self._weights(x)
        return (x - mean) * torch.exp(-log_scale), -log_scale.expand(x.shape)

    def _inverse(self, z: Tensor) -> Tensor:
        mean, log_scale = self._weights(z)
        return z * log_scale.exp() + mean

    def _weights(self, x: Tensor) -> list[Tensor]:
        return [per_channel(weight, x) for weight in (self.mean, self.log_scale)]

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        mean, var = batch_moments(x)  # over all processes, so that all start alike
        self.mean.copy_(mean)
        rounding = (4 * torch.finfo(mean.dtype).eps * mean).square()  # of a constant
        self.log_scale.copy_(0.5 * torch.where(var > rounding, var + self.eps, 1).log())


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
        z, terms = self.pointwise_log_det(x)
        return z, sum_per_example(terms)

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * x / self.levels
        eps = torch.finfo(x.dtype).eps
        outside = (p < -4 * eps) | (p > 1 + 4 * eps)
        p = p.clamp(eps, 1 - eps)  # what rounding pushed onto 0 or 1 comes back
        log_p, log_q = p.log(), torch.log1p(-p)
        constant = math.log1p(-2 * self.alpha) - math.log(self.levels)
        return log_p - log_q, (constant - log_p - log_q).masked_fill(outside, -math.inf)

    def _inverse(self, z: Tensor) -> Tensor:
        return self.levels * (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)
