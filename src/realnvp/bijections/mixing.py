"""An invertible 1x1 convolution (Kingma & Dhariwal 2018, section 3.2).

Before a coupling it learns which directions the coupling keeps.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from realnvp.bijections.precision import in_float64
from realnvp.bijections.start import StartsFromData
from realnvp.tools.device import without_autocast
from realnvp.tools.moments import EPS, over_processes

ALIKE = 1e-3  # relative difference below which two variances count as equal


class Mixing(StartsFromData):
    """z = W x at each pixel;  log_det = H W log |det W|. x is (B, C, ...).

    W starts as a random rotation R. Inside `starting` the first batch makes W a whitening, with
    principal axes U of variances e. The channels of z are then uncorrelated, which couplings would
    take hundreds of steps to learn. starts_as:

        axes       W = e^(-1/2) U', the largest variance first: for channels of images
        symmetric  W = U e^(-1/2) U', which turns as little as possible: for columns of a table
        rotation   W = R

    Data do not determine the sign of an axis, nor axes of equal variances within the space that
    they span. There R decides: rounding would decide differently on each machine. So W stays R for
    a batch that is white already.

    The product is float32 or better, also under autocast. The determinant and the inverse, which
    depend on W alone, are float64.
    """

    def __init__(
        self,
        channels: int,
        *,
        starts_as: Literal["axes", "symmetric", "rotation"] = "axes",
    ) -> None:
        super().__init__()
        self.starts_as = starts_as
        self.starts_from_data = starts_as != "rotation"
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(in_float64(self.weight)).logabsdet.to(x.dtype).to(x.device)
        return _product(self.weight, x), (x[0, 0].numel() * log_det).expand(x.shape[0])

    def _inverse(self, z: Tensor) -> Tensor:
        # inv_ex does not look whether W is singular (x is then not finite): a GPU would wait.
        return _product(torch.linalg.inv_ex(in_float64(self.weight)).inverse, z)

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        h = in_float64(x).transpose(0, 1).flatten(1)
        numbers = over_processes(h.new_full((), h.shape[1]))
        h = h - over_processes(h.sum(1, keepdim=True)) / numbers
        covariance = over_processes(h @ h.T) / numbers
        if self.starts_as == "symmetric":
            # Few rows say little: count one more row for each column, all of them uncorrelated.
            covariance = covariance.lerp(covariance.diag().diag(), len(h) / (len(h) + numbers))
        variances, axes = (part.flip(-1) for part in torch.linalg.eigh(covariance.cpu()))
        whitening = axes * (variances + EPS).rsqrt() @ axes.T
        if self.starts_as == "axes":
            whitening = _turned(axes, variances, self.weight.cpu().double()) @ whitening
        self.weight.copy_(whitening)


def _turned(axes: Tensor, variances: Tensor, towards: Tensor) -> Tensor:
    """Principal axes as rows, turned to be nearest to the rows of `towards`.

    Only axes of equal variances turn, within the space that they span. The orthonormal basis of the
    space that is nearest to the rows is the polar factor of their projections onto it.

    axes: as columns, by falling variance.
    variances: of the axes.
    towards: orthonormal rows.
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
    with without_autocast(x):
        weight = weight.to(x.dtype)
        if x.ndim == 2:
            return x @ weight.T
        return (weight @ x.reshape(*x.shape[:2], -1)).view(x.shape)
