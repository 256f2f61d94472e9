"""A mixing of channels on integers: triangular matrices, each a few exact sums."""

import math
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from realnvp.codec.rounding import LIMIT, within_limit
from realnvp.codec.stack import Integers, Stack
from realnvp.codec.steps import Conditioned

Floats = npt.NDArray[np.float64]

FRACTION = 1 << 16  # coefficients have 16 bits after the point
LARGEST_PIVOT = 4.0  # of the geometric mean, where pivots near to it leave L or U too large


class Lift:
    """X_i += round(sum over j > i of U_ij (X_j + 1/2)), and the transpose order for j < i.

    It sees T = 2 X + 1, float64, twice the middle of the cell.

    U: strictly triangular, (C, C). All of it is a product of integers below 2^53, so it is exact in
    float64, whatever the order of the sums.
    """

    def __init__(self, matrix: Tensor, *, upper: bool) -> None:
        self.matrix = (matrix * FRACTION).round()
        self.half = self.matrix / (2 * FRACTION)
        self.order = range(len(matrix)) if upper else range(len(matrix) - 1, -1, -1)
        self.upper = upper
        if not self.matrix.abs().sum(1).max() * (2 * LIMIT + 1) < 1 << 52:
            raise ValueError("a mixing of its channels is too uneven")

    def forward(self, t: Tensor) -> Tensor:
        """t, (B, C, N). Unfit: beyond `LIMIT`."""
        return within_limit((self.half @ t).add_(0.5).floor_().add_(t / 2)).mul_(2)

    def inverse(self, t: Floats) -> Floats:
        """t, (C, N), overwritten channel by channel: each needs those that are known by then."""
        half = self.half.numpy()
        for i in reversed(self.order):
            known = slice(i + 1, None) if self.upper else slice(0, i)
            added = half[i, known] @ t[known]
            added += 0.5
            t[i] -= 2 * np.floor(added, out=added)
        return t


class Mix:
    """z = W x at each pixel, as P L D U Q of W diag(delta).

    P, Q: permutations. U, L: unit triangular, lifted (`Lift`). D: its signs turn cells around, its
    magnitudes are the new delta.

    weight: (C, C). delta: (C,).
    large: with large pivots. False: only where even ones leave L or U too large.
    """

    def __init__(self, weight: Tensor, delta: Tensor, *, large: bool = False) -> None:
        for most in (LARGEST_PIVOT,) if large else (None, LARGEST_PIVOT):
            with suppress(ValueError):
                self._factored(*even_ldu(weight * delta, most))
                return
        self._factored(*even_ldu(weight * delta, math.inf))

    def _factored(
        self, rows: Tensor, lower: Tensor, diagonal: Tensor, upper: Tensor, columns: Tensor
    ) -> None:
        self.delta = torch.empty_like(diagonal)
        self.delta[rows] = diagonal.abs()
        self.rows, self.columns = rows, columns
        self.negative = (diagonal < 0)[:, None]
        self.sign = torch.where(self.negative, -1.0, 1.0).double()
        self.upper = Lift(upper, upper=True)
        self.lower = Lift(lower * diagonal.abs() / diagonal.abs()[:, None], upper=False)

    def forward(self, x: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        t = self.upper.forward(2 * x.flatten(2).index_select(1, self.columns).double() + 1)
        t = self.lower.forward(t * self.sign)
        return t.sub_(1).div_(2).long()[:, self.rows.argsort()].view_as(x)

    def inverse(self, z: Tensor, stack: Stack, context: Conditioned = None) -> Tensor:
        t = 2 * z.transpose(0, 1).flatten(1)[self.rows].double() + 1
        found = self.upper.inverse(self.lower.inverse(t.numpy()) * self.sign.numpy())
        x = torch.from_numpy((found - 1) / 2).long()[self.columns.argsort()]
        return x.view(-1, len(z), *z.shape[2:]).transpose(0, 1)

    def constants(self) -> Iterator[Integers]:
        for each in (self.rows, self.columns, self.negative, self.upper.matrix, self.lower.matrix):
            yield each.long().numpy()


def even_ldu(
    matrix: Tensor, most: float | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows, L, D, U, columns: matrix[rows][:, columns] = (1 + L) diag(D) (1 + U).

    L and U are strictly triangular. Each pivot is the entry nearest to the geometric mean of the
    pivots that are left, so that no delta drifts away from the others over many mixings.

    most: a pivot is the largest entry up to so many times this mean, so that L and U are small.
    """
    size = len(matrix)
    left, rows = matrix.double().clone(), torch.arange(size, device=matrix.device)
    columns = rows.clone()
    log_det = torch.linalg.slogdet(left).logabsdet
    for k in range(size):
        logs = left[k:, k:].abs().log()
        above = logs - log_det / (size - k)
        distance = above.abs()
        if most and (above <= math.log(most)).any():
            distance = torch.where(above <= math.log(most), -above, math.inf)
        i, j = (int(at) + k for at in divmod(int(distance.argmin()), size - k))
        log_det = log_det - left[i, j].abs().log()
        left[[k, i]], rows[[k, i]] = left[[i, k]], rows[[i, k]]
        left[:, [k, j]], columns[[k, j]] = left[:, [j, k]], columns[[j, k]]
        left[k + 1 :, k] /= left[k, k]
        left[k + 1 :, k + 1 :] -= left[k + 1 :, k, None] * left[k, k + 1 :]
    diagonal = left.diag()
    return rows, left.tril(-1), diagonal, (left / diagonal[:, None]).triu(1), columns
