"""An invertible 1x1 convolution (Kingma & Dhariwal 2018, section 3.2): which channels a coupling keeps is learned."""

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection


class Mixing(Bijection):
    """z = W x at each pixel;  log_det = H W log |det W|. W starts as a rotation. x is (B, C, ...).

    The product is float32 or better also under autocast; what depends on W alone, its determinant and inverse, is float64.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(self.weight.double()).logabsdet.to(x.dtype)
        return _product(self.weight, x), (x[0, 0].numel() * log_det).expand(x.shape[0])

    def _inverse(self, z: Tensor) -> Tensor:
        return _product(torch.linalg.inv(self.weight.double()), z)


def _product(weight: Tensor, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return (weight.to(x.dtype) @ x.reshape(*x.shape[:2], -1)).view(x.shape)
