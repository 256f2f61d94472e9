"""Monotone rational-quadratic splines of the real line (Durkan et al. 2019), and their one bin."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

END = 5.0
NARROWEST = 1e-3  # of [0, 1]
STEEPEST = 1e2


def rational_quadratic(
    u: Tensor, p: Tensor, q: Tensor, c: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """u' and log du'/du of the map of [0, 1] to itself with slope p at 0 and slope q at 1.

    It maps the odds r = u / (1 - u) to r (p + c r) / (1 + c q r). c decides where the slope turns
    from p to q; c = 1 is a bin of a rational-quadratic spline (Durkan et al. 2019, eq 4-5).
    """
    w = 1 - u
    whole = w * w + (p + c * q) * u * w + c * u * u
    slope = p * w * w + 2 * c * u * w + c * c * q * u * u  # times whole^2
    return u * (p * w + c * u) / whole, slope.log() - 2 * whole.log()


def inverse_rational_quadratic(u: Tensor, p: Tensor, q: Tensor, c: Tensor | float = 1.0) -> Tensor:
    """The inverse of `rational_quadratic`, exact but for rounding."""
    w = 1 - u
    # The odds r solve c w r^2 + b r - u = 0. No digits cancel: this root has no difference.
    b = p * w - c * q * u
    t = (torch.where(b > 0, b, -b) + (b.square() + 4 * c * u * w).sqrt()) / 2
    return torch.where(b > 0, u / (u + t), t / (t + c * w))


@dataclass(frozen=True)
class RQSpline:
    """T(x) = s(x exp(l) + m): an affine map, then a monotone spline s (Durkan et al. 2019).

    s has `bins` bins in [-END, END], each of them `rational_quadratic`, and is the identity
    outside. Slopes at the ends are 1, so that the derivative of s has no jump anywhere.

    shift and log_scale are m and l; x, y, slopes (..., bins + 1), at the knots; x and y rise.
    """

    shift: Tensor
    log_scale: Tensor
    x: Tensor
    y: Tensor
    slopes: Tensor

    bins: ClassVar[int] = 16
    outputs: ClassVar[int] = 3 * bins + 1
    bounded: ClassVar[bool] = True

    @classmethod
    def of(cls, raw: Tensor, bound: Tensor | float) -> Self:
        """The spline of raw, (B, outputs * C, ...): m, l, widths, heights and inner slopes.

        Zeros: the identity. l = bound * tanh(raw).
        """
        raw = raw.view(raw.shape[0], cls.outputs, -1, *raw.shape[2:]).movedim(1, -1)
        sizes = [1, 1, cls.bins, cls.bins, cls.bins - 1]
        shift, scale, widths, heights, slopes = torch.split(raw, sizes, dim=-1)
        most = math.log(STEEPEST)
        return cls(
            shift[..., 0],
            bound * scale[..., 0].tanh(),
            _knots(widths),
            _knots(heights),
            F.pad(most * torch.tanh(slopes / most), (1, 1)).exp(),
        )

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x * self.log_scale.exp() + self.shift
        left, width, bottom, height, p, q = self._bin(self.x, x)
        u, log_slope = rational_quadratic(((x - left) / width).clamp(0, 1), p, q)
        inside = x.abs() < END
        z = torch.where(inside, bottom + height * u, x)
        return z, self.log_scale + torch.where(inside, log_slope + (height / width).log(), 0)

    def inverse(self, z: Tensor) -> Tensor:
        left, width, bottom, height, p, q = self._bin(self.y, z)
        u = inverse_rational_quadratic(((z - bottom) / height).clamp(0, 1), p, q)
        x = torch.where(z.abs() < END, left + width * u, z)
        return (x - self.shift) * torch.exp(-self.log_scale)

    def _bin(self, knots: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        """Left end, width, bottom, height of each entry's bin; slopes at its ends over its own."""
        index = (at[..., None] >= knots[..., 1:-1]).sum(-1, keepdim=True)
        ends = torch.cat([index, index + 1], dim=-1)
        (left, right), (bottom, top), (p, q) = (
            values.expand(*at.shape, -1).gather(-1, ends).unbind(-1)
            for values in (self.x, self.y, self.slopes)
        )
        width, height = right - left, top - bottom
        return left, width, bottom, height, p * width / height, q * width / height


def _knots(raw: Tensor) -> Tensor:
    """Rising numbers from -END to END, one more than the raw widths between them."""
    widths = NARROWEST + (1 - raw.shape[-1] * NARROWEST) * raw.softmax(-1)
    inner = widths[..., :-1].cumsum(-1)
    return END * (2 * F.pad(F.pad(inner, (1, 0)), (0, 1), value=1.0) - 1)
