"""Linear maps: of the channels at each pixel, and of a condition (regression)."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from realnvp.bijections.base import DataDependentInit
from realnvp.device import without_autocast
from realnvp.moments import EPS, over_processes

ALIKE = 1e-3  # relative difference below which two variances count as equal


class InvertibleLinear(DataDependentInit):
    """z = W x at each pixel;  log_det = H W log |det W|. x is (B, C, ...).

    W starts as a random rotation R. Inside `data_dependent_init` the first batch makes W a
    whitening, with principal axes U of variances e, which couplings would be slow to learn:

        axes       W = e^(-1/2) U', the largest variance first: for channels of images
        symmetric  W = U e^(-1/2) U', which turns as little as possible: for columns of a table
        rotation   W = R

    Data do not determine the sign of an axis, nor axes of equal variances within the space that
    they span. There R decides: rounding would decide differently on each machine.
    """

    def __init__(
        self, channels: int, *, starts_as: Literal["axes", "symmetric", "rotation"] = "axes"
    ) -> None:
        super().__init__()
        self.starts_as = starts_as
        self.waits_for_data = starts_as != "rotation"
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(self.weight.double()).logabsdet.to(x.dtype)
        return _product(self.weight, x), (x[0, 0].numel() * log_det).expand(x.shape[0])

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        # inv_ex does not look whether W is singular (x is then not finite): a GPU would wait.
        return _product(torch.linalg.inv_ex(self.weight.double()).inverse, z)

    @torch.no_grad()
    def initialize_from(self, x: Tensor, context: Tensor | None = None) -> None:
        h = x.double().transpose(0, 1).flatten(1)
        numbers = over_processes(h.new_full((), h.shape[1]))
        h = h - over_processes(h.sum(1, keepdim=True)) / numbers
        covariance = over_processes(h @ h.T) / numbers
        if self.starts_as == "symmetric":
            # Few rows say little: count one more row for each column, all of them uncorrelated.
            covariance = covariance.lerp(covariance.diag().diag(), len(h) / (len(h) + numbers))
        variances, axes = (part.flip(-1) for part in torch.linalg.eigh(covariance.cpu()))
        whitening = axes * (variances + EPS).rsqrt() @ axes.T
        if self.starts_as == "axes":
            whitening = _aligned(axes, variances, self.weight.cpu().double()) @ whitening
        self.weight.copy_(whitening)


def _aligned(axes: Tensor, variances: Tensor, towards: Tensor) -> Tensor:
    """Principal axes, columns by falling variance, as rows nearest to the rows `towards`.

    Only axes of equal variances turn, within the space that they span. The orthonormal basis of the
    space that is nearest to the rows is the polar factor of their projections onto it.
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


class Regression(DataDependentInit):
    """z = x - A c;  log_det = 0. x is (B, D), the condition c is (B, k).

    A is zero. Inside `data_dependent_init` the first batch, of standardized x and c, sets it to the
    least squares solution.
    """

    def __init__(self, dim: int, context: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, context))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x - self._predict(x, context), x.new_zeros(x.shape[0])

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z + self._predict(z, context)

    def _predict(self, x: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None
        mean = context.to(x.dtype) @ self.weight.T.to(x.dtype)  # (B, D)
        return mean.reshape(*mean.shape, *[1] * (x.ndim - 2))

    @torch.no_grad()
    def initialize_from(self, x: Tensor, context: Tensor | None = None) -> None:
        assert context is not None
        h, c = x.double(), context.double()
        squares, products = over_processes(c.T @ c), over_processes(c.T @ h)
        # Few rows say little: count one more row for each column of c, with x = 0.
        ridge = torch.eye(len(squares), dtype=squares.dtype, device=squares.device) * len(squares)
        self.weight.copy_(torch.linalg.solve(squares + ridge, products).T)
