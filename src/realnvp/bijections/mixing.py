"""An invertible 1x1 convolution (Kingma & Dhariwal 2018, section 3.2): which channels a coupling keeps is learned."""

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection
from realnvp.moments import EPS, over_processes


class Mixing(Bijection):
    """z = W x at each pixel;  log_det = H W log |det W|. x is (B, C, ...).

    W starts as a rotation. Within `starting` the first batch makes it a whitening, with principal axes U of variances e: the
    channels of z are then uncorrelated, which couplings would else take hundreds of steps to learn. starts_as:

        axes      e^(-1/2) U', the largest variance first: for channels of images
        symmetric U e^(-1/2) U', which turns as little as can be: for columns of a table
        rotation  stays the random rotation

    The product is float32 or better also under autocast; what depends on W alone, its determinant and inverse, is float64.
    """

    def __init__(self, channels: int, *, starts_as: Literal["axes", "symmetric", "rotation"] = "axes") -> None:
        super().__init__()
        self.starts_as = starts_as
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.starting and self.starts_as != "rotation":
            self._start(x)
        log_det = torch.linalg.slogdet(self.weight.double()).logabsdet.to(x.dtype)
        return _product(self.weight, x), (x[0, 0].numel() * log_det).expand(x.shape[0])

    def _inverse(self, z: Tensor) -> Tensor:
        return _product(torch.linalg.inv(self.weight.double()), z)

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        h = x.double().transpose(0, 1).flatten(1)
        numbers = over_processes(h.new_tensor(h.shape[1]))
        h = h - over_processes(h.sum(1, keepdim=True)) / numbers
        covariance = over_processes(h @ h.T) / numbers
        if symmetric := self.starts_as == "symmetric":  # few rows say little: as many more as there are columns are uncorrelated
            covariance = covariance.lerp(covariance.diag().diag(), len(h) / (len(h) + numbers.item()))
        variances, axes = torch.linalg.eigh(covariance)
        whitening = (axes * (variances + EPS).rsqrt()).T.flip(0)
        self.weight.copy_(axes.flip(1) @ whitening if symmetric else whitening)
        self.starting = False


def _product(weight: Tensor, x: Tensor) -> Tensor:
    # The meta device, on which the memory of a training is counted, has no autocast.
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        weight = weight.to(x.dtype)
        return x @ weight.T if x.ndim == 2 else (weight @ x.reshape(*x.shape[:2], -1)).view(x.shape)
