"""A linear regression on the condition, in front of what is not linear."""

import torch
from torch import Tensor, nn

from realnvp.bijections.precision import in_float64
from realnvp.bijections.start import StartsFromData
from realnvp.tools.moments import over_processes


class Regression(StartsFromData):
    """z = x - A c;  log_det = 0. x is (B, D), the condition c is (B, k).

    A is zero, until the first batch inside `starting` makes it the least squares solution for rows
    whose x and c are standardised; of classes, one-hot, these are their means. Without a condition
    it is the identity.
    """

    def __init__(self, dim: int, given: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, given))

    def forward(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x - self._predict(x, given), x.new_zeros(x.shape[0])

    def _inverse(self, z: Tensor, given: Tensor | None = None) -> Tensor:
        return z + self._predict(z, given)

    def _predict(self, x: Tensor, given: Tensor | None) -> Tensor:
        if given is None:
            return torch.zeros_like(x)
        mean = given.to(x.dtype) @ self.weight.T.to(x.dtype)  # (B, D)
        return mean.reshape(*mean.shape, *[1] * (x.ndim - 2))

    @torch.no_grad()
    def start_from(self, x: Tensor, given: Tensor | None = None) -> None:
        if given is None:
            return
        h, c = in_float64(x), in_float64(given)
        squares, products = over_processes(c.T @ c), over_processes(c.T @ h)
        # Few rows say little: count one more row for each column of c, with x = 0.
        ridge = torch.eye(len(squares), dtype=squares.dtype, device=squares.device) * len(squares)
        self.weight.copy_(torch.linalg.solve(squares + ridge, products).T)
