"""An invertible 1x1 convolution (Kingma & Dhariwal 2018, section 3.2): which channels a coupling keeps is learned."""

from contextlib import nullcontext
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from realnvp.bijections.precision import in_float64
from realnvp.bijections.start import StartsFromData
from realnvp.moments import EPS, over_processes

ALIKE = 1e-3  # variances that differ by less, relatively, are those of a circle or a ball, which has no axes


class Mixing(StartsFromData):
    """z = W x at each pixel;  log_det = H W log |det W|. x is (B, C, ...).

    W starts as a random rotation R. Within `starting` the first batch makes it a whitening, with principal axes U of variances
    e: the channels of z are then uncorrelated, which couplings would else take hundreds of steps to learn. starts_as:

        axes      e^(-1/2) U', the largest variance first: for channels of images
        symmetric U e^(-1/2) U', which turns as little as can be: for columns of a table
        rotation  stays R

    What the data leave open of the axes, R decides: an axis' sign, and how axes of equal variances lie in the space that they
    span. Of a batch that is white already W so stays R. Rounding would decide else, differently on each machine.

    The product is float32 or better also under autocast; what depends on W alone, its determinant and inverse, is float64.
    """

    def __init__(self, channels: int, *, starts_as: Literal["axes", "symmetric", "rotation"] = "axes") -> None:
        super().__init__()
        self.starts_as = starts_as
        self.starts_from_data = starts_as != "rotation"
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(in_float64(self.weight)).logabsdet.to(x.dtype).to(x.device)
        return _product(self.weight, x), (x[0, 0].numel() * log_det).expand(x.shape[0])

    def _inverse(self, z: Tensor) -> Tensor:
        # Without the check for a singular W, for which a GPU would wait: x is then not finite.
        return _product(torch.linalg.inv_ex(in_float64(self.weight)).inverse, z)

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        h = in_float64(x).transpose(0, 1).flatten(1)
        numbers = over_processes(h.new_full((), h.shape[1]))
        h = h - over_processes(h.sum(1, keepdim=True)) / numbers
        covariance = over_processes(h @ h.T) / numbers
        if self.starts_as == "symmetric":  # few rows say little: as many more as there are columns are uncorrelated
            covariance = covariance.lerp(covariance.diag().diag(), len(h) / (len(h) + numbers))
        variances, axes = (part.flip(-1) for part in torch.linalg.eigh(covariance.cpu()))
        whitening = axes * (variances + EPS).rsqrt() @ axes.T
        if self.starts_as == "axes":
            whitening = _turned(axes, variances, self.weight.cpu().double()) @ whitening
        self.weight.copy_(whitening)


def _turned(axes: Tensor, variances: Tensor, towards: Tensor) -> Tensor:
    """Principal axes, given as columns by falling variance, as rows, each as near as can be to the row of `towards` in its place.

    Nearest of all orthonormal bases of the space that axes of equal variances span: the polar factor of what lies within it.
    """
    ratios = (variances[:-1] + EPS) / (variances[1:] + EPS)
    ends = [0, *(1 + torch.nonzero(ratios > 1 + ALIKE).flatten()).tolist(), len(variances)]
    sizes = [end - start for start, end in pairwise(ends)]
    turned = []
    for space, rows in zip(torch.split(axes, sizes, 1), torch.split(towards, sizes), strict=True):
        left, _, right = torch.linalg.svd(rows @ space)
        turned.append(left @ right @ space.T)
    return torch.cat(turned)


def _product(weight: Tensor, x: Tensor) -> Tensor:
    # The meta device, on which the memory of a training is counted, has no autocast.
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        weight = weight.to(x.dtype)
        return x @ weight.T if x.ndim == 2 else (weight @ x.reshape(*x.shape[:2], -1)).view(x.shape)
