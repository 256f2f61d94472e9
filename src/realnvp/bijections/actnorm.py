"""A learned affine map of each channel (Kingma & Dhariwal 2018, section 3.1).

It starts as the data's standardisation.
"""

from math import prod

import torch
from torch import Tensor, nn

from realnvp.bijections.start import StartsFromData
from realnvp.tools.moments import EPS, batch_moments, per_channel


class ActNorm(StartsFromData):
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

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self._weights(x)
        return (x - mean) * torch.exp(-log_scale), -log_scale.expand(x.shape)

    def _inverse(self, z: Tensor) -> Tensor:
        mean, log_scale = self._weights(z)
        return z * log_scale.exp() + mean

    def _weights(self, x: Tensor) -> list[Tensor]:
        return [per_channel(weight, x) for weight in (self.mean, self.log_scale)]

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        mean, var = batch_moments(x)  # over all processes, so that all start alike
        self.mean.copy_(mean)
        rounding = (4 * torch.finfo(mean.dtype).eps * mean).square()  # of a constant
        self.log_scale.copy_(0.5 * torch.where(var > rounding, var + self.eps, 1).log())
