"""How rows spread: the factor of noise that has a share of their covariance."""

import torch
from torch import Tensor

from realnvp.bijections.precision import in_float64


def spread_of(rows: Tensor) -> Tensor:
    """The factor of unit noise: a matrix, (D, D), for rows; deviations, (C, H, W), for images.

    As in `Mixing`, the covariance of few rows is drawn towards its diagonal. So columns that depend
    on each other get noise in every direction, too.
    """
    exact = in_float64(rows)
    deviation = exact.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1)
    if rows.ndim > 2:
        return deviation.to(rows.dtype).to(rows.device)
    scaled = (exact - exact.mean(0)) / deviation
    n, dim = rows.shape
    correlation = (scaled.T @ scaled / n).lerp(torch.ones_like(scaled[0]).diag(), dim / (n + dim))
    return (deviation[:, None] * torch.linalg.cholesky(correlation)).to(rows.dtype).to(rows.device)
