"""A learned affine map of each channel that starts as the data's standardisation (Kingma & Dhariwal 2018, section 3.1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection
from realnvp.moments import EPS, batch_moments


class ActNorm(Bijection):
    """z = (x - mean) exp(-log_scale) for each channel;  log_det = -H W sum over channels of log_scale.

    Both are weights, so training, evaluation and inverse agree, whatever the batch. A fresh one is the identity; the first batch
    within `starting` gives it its mean and scale. x is (B, C, ...).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.starting = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.starting:
            self._start(x)
        mean, log_scale = self._weights(x)
        log_det = -prod(x.shape[2:]) * log_scale.sum()
        return (x - mean) * torch.exp(-log_scale), log_det.expand(x.shape[0])

    def _inverse(self, z: Tensor) -> Tensor:
        mean, log_scale = self._weights(z)
        return z * log_scale.exp() + mean

    def _weights(self, x: Tensor) -> list[Tensor]:
        return [weight.to(x.dtype).view(-1, *[1] * (x.ndim - 2)) for weight in (self.mean, self.log_scale)]

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        mean, var = batch_moments(x)  # of the batch of all processes, so that these start alike
        self.mean.copy_(mean)
        self.log_scale.copy_(0.5 * (var + EPS).log())
        self.starting = False


@contextmanager
def starting(module: nn.Module) -> Iterator[None]:
    """Within it, the first forward pass puts each ActNorm's mean and deviation to those of what it sees, layer after layer."""
    layers = [child for child in module.modules() if isinstance(child, ActNorm)]
    for layer in layers:
        layer.starting = True
    try:
        yield
    finally:
        for layer in layers:
            layer.starting = False
