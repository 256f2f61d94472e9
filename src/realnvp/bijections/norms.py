"""Maps of each entry alone: normalization of channels, pixels to reals, and the tails."""

import math
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.bijections.base import Bijection, DataDependentInit
from realnvp.moments import EPS, MovingMoments, batch_moments, per_channel


class BatchNorm(Bijection):
    """z = (x - mean) / sqrt(var + eps) for each channel of x, (B, C, ...): eq 15-16.

    log_det = -H W sum over channels of .5 log(var + eps).
    """

    def __init__(self, channels: int, *, momentum: float = 0.0) -> None:
        super().__init__()
        self.moments = MovingMoments(channels, momentum=momentum)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, terms = self.pointwise_log_det(x)
        return z, terms[0].sum().expand(x.shape[0])

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, var = of_channels(x, *self.moments(x))
        return (x - mean) * (var + EPS).rsqrt(), -0.5 * (var + EPS).log().expand(x.shape)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        mean, var = of_channels(z, *self.moments(z))
        return z * (var + EPS).sqrt() + mean


class ActNorm(DataDependentInit):
    """z = (x - mean) exp(-log_scale) for each channel of x, (B, C, ...).

    log_det = -H W sum over channels of log_scale.

    A fresh layer is the identity. Inside `data_dependent_init` the first batch sets both weights:
    exp(2 log_scale) = var + eps.
    """

    def __init__(self, channels: int, *, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_scale = of_channels(x, self.mean, self.log_scale)
        log_det = -prod(x.shape[2:]) * log_scale.sum()
        return (x - mean) * torch.exp(-log_scale), log_det.expand(x.shape[0])

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_scale = of_channels(x, self.mean, self.log_scale)
        return (x - mean) * torch.exp(-log_scale), -log_scale.expand(x.shape)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        mean, log_scale = of_channels(z, self.mean, self.log_scale)
        return z * log_scale.exp() + mean

    @torch.no_grad()
    def initialize_from(self, x: Tensor, context: Tensor | None = None) -> None:
        mean, var = batch_moments(x)  # over all processes, so that all start alike
        self.mean.copy_(mean)
        rounding = (4 * torch.finfo(mean.dtype).eps * mean).square()  # of a constant
        self.log_scale.copy_(0.5 * torch.where(var > rounding, var + self.eps, 1).log())


class Logit(Bijection):
    """z = log p - log(1 - p), p = a + (1 - 2a) x / levels (section 4.1).

    log_det = sum of log(1 - 2a) - log levels - log p - log(1 - p).

    x = v + u is in data units, [0, levels). Pixels with p outside [0, 1] have density 0: log_det is
    -inf. p keeps away from both ends; the paper's a + (1 - a) x reaches 1 in float32.
    """

    def __init__(self, *, alpha: float = 0.05, levels: int = 256) -> None:
        super().__init__()
        self.alpha, self.levels = alpha, levels

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * x / self.levels
        eps = torch.finfo(x.dtype).eps
        outside = (p < -4 * eps) | (p > 1 + 4 * eps)
        p = p.clamp(eps, 1 - eps)  # rounding may have reached 0 or 1
        log_p, log_q = p.log(), torch.log1p(-p)
        constant = math.log1p(-2 * self.alpha) - math.log(self.levels)
        return log_p - log_q, (constant - log_p - log_q).masked_fill(outside, -math.inf)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.levels * (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


class SinhArcsinh(Bijection):
    """z = sinh(b), b = exp(t) asinh(u) + e, u = exp(l) x + m, of each entry (Jones & Pewsey 2009).

    log_det = sum of t + l + log cosh b - log cosh asinh u.

    Zeros, as in a fresh layer, are the identity. t > 0: z has wider tails than x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.skew = nn.Parameter(torch.zeros(channels))
        self.log_tail = nn.Parameter(torch.zeros(channels))

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        m, log_scale, e, t = of_channels(x, self.shift, self.log_scale, self.skew, self.log_tail)
        a = asinh(log_scale.exp() * x + m)
        b = t.exp() * a + e
        return sinh(b), t + log_scale + log_cosh(b) - log_cosh(a)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        m, log_scale, e, t = of_channels(z, self.shift, self.log_scale, self.skew, self.log_tail)
        u = sinh(torch.exp(-t) * (asinh(z) - e))
        return torch.exp(-log_scale) * (u - m)


def of_channels(x: Tensor, *values: Tensor) -> list[Tensor]:
    """`per_channel` of each."""
    return [per_channel(each, x) for each in values]


def asinh(x: Tensor) -> Tensor:
    """asinh(x), finite wherever x is, as its gradient: torch's squares x."""
    far = 1e9  # from here on asinh(x) = log(2 x) to the last bit
    return torch.asinh(x.clamp(-far, far)) + x.sign() * (x.abs().clamp(min=far) / far).log()


def sinh(x: Tensor) -> Tensor:
    """sinh(x), but far from overflow, so that its gradients are finite, too."""
    most = math.log(torch.finfo(x.dtype).max) - 10
    return torch.sinh(x.clamp(-most, most))


def log_cosh(x: Tensor) -> Tensor:
    """log cosh(x), finite wherever x is; log(1 + sinh(x)^2) / 2 overflows."""
    return x.abs() + F.softplus(-2 * x.abs()) - math.log(2)
