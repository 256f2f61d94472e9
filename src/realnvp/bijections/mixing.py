"""An invertible 1x1 convolution (Kingma & Dhariwal 2018, section 3.2): which channels a coupling keeps is learned."""

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection
from realnvp.moments import EPS, over_processes


class Mixing(Bijection):
    """z = W x at each pixel;  log_det = H W log |det W|. x is (B, C, ...).

    W starts as a rotation; within `starting` the first batch makes it e^(-1/2) U', with principal axes U of variances e, the
    largest first. The channels of z are then uncorrelated, which couplings would else take hundreds of steps to learn.
    The product is float32 or better also under autocast; what depends on W alone, its determinant and inverse, is float64.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.starting:
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
        variances, axes = torch.linalg.eigh(over_processes(h @ h.T) / numbers)
        self.weight.copy_((axes * (variances + EPS).rsqrt()).T.flip(0))
        self.starting = False


def _product(weight: Tensor, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return (weight.to(x.dtype) @ x.reshape(*x.shape[:2], -1)).view(x.shape)
