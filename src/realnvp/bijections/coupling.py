"""Coupling layers (sections 3.2 to 3.4): one part of x decides how the other part changes.

A mask b (eq 9) is a function of the shape, so that no weight and no buffer has a spatial size.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection, in_network_dtype
from realnvp.bijections.splines import RQSpline

Mask = Callable[[Sequence[int], torch.device], Tensor]
"""From the shape of x to b. True: passed through unchanged."""


def checkerboard(shape: Sequence[int], device: torch.device, *, flip: bool = False) -> Tensor:
    """(1, 1, H, W), True where row plus column is odd. flip: where it is even."""
    rows = torch.arange(shape[-2], device=device)[:, None]
    columns = torch.arange(shape[-1], device=device)
    return ((rows + columns) % 2 == (0 if flip else 1))[None, None]


def channelwise(shape: Sequence[int], device: torch.device, *, flip: bool = False) -> Tensor:
    """(1, C, 1, 1), True for the first half of the channels. flip: for the second half."""
    channels = shape[-3]
    first_half = torch.arange(channels, device=device) < channels // 2
    return (~first_half if flip else first_half)[None, :, None, None]


def bitwise(shape: Sequence[int], device: torch.device, *, bit: int, flip: bool = False) -> Tensor:
    """(1, D), True where the entry's index, in binary, has a 1 at place `bit`. flip: a 0.

    Any two entries are on different sides for some bit. Places are counted modulo their number.
    """
    place = bit % max(1, (shape[-1] - 1).bit_length())
    entries = torch.arange(shape[-1], device=device)
    return ((entries >> place) % 2 == (0 if flip else 1))[None]


def none_kept(shape: Sequence[int], device: torch.device) -> Tensor:
    """False: every entry changes, by the context alone."""
    return torch.zeros((), dtype=torch.bool, device=device)


class Affine:
    """T(x) = x exp(l) + m (eq 7); log T'(x) = l. raw: m, then raw l, with l = bound * tanh(raw)."""

    outputs: ClassVar[int] = 2  # of the network, for each entry of x
    bounded: ClassVar[bool] = True  # whether the log-scale has a trained bound

    def __init__(self, shift: Tensor, log_scale: Tensor) -> None:
        self.shift, self.log_scale = shift, log_scale

    @classmethod
    def of(cls, raw: Tensor, bound: Tensor | float) -> Self:
        shift, scale = raw.chunk(2, dim=1)
        return cls(shift, bound * scale.tanh())

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp() + self.shift, self.log_scale

    def inverse(self, z: Tensor) -> Tensor:
        return (z - self.shift) * torch.exp(-self.log_scale)


class Additive(Affine):
    """T(x) = x + m; log T'(x) = 0: the coupling of NICE, the paper's predecessor [14]. raw: m."""

    outputs: ClassVar[int] = 1
    bounded: ClassVar[bool] = False

    @classmethod
    def of(cls, raw: Tensor, bound: Tensor | float) -> Self:
        return cls(raw, raw.new_zeros(()).expand(raw.shape))


Transform = Affine | RQSpline


class Coupling(Bijection):
    """z = b x + (1 - b) T(x; net(b x, b)) with a mask b and a transform T of each entry (eq 7-9).

    log_det = sum of (1 - b) log T'(x), for the affine transform eq 6.

    net: net(b x, b), or net(b x, b, context): (B, T.outputs * C, ...) from (B, C, ...).
    transform: `Affine`, `Additive` or `RQSpline`.
    bound: initial value of one trained scalar, the bound of the log-scale, so that no single step
        of training makes the log-scale large.
    """

    def __init__(
        self, mask: Mask, net: nn.Module, transform: type[Transform], *, bound: float = 1.0
    ) -> None:
        super().__init__()
        self.mask, self.net, self.transform = mask, net, transform
        self.bound = nn.Parameter(torch.tensor(bound)) if transform.bounded else None

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask, transform = self._predict(x, context)
        z, log_slope = transform(x)
        if self.transform is RQSpline:  # an affine log-scale is 0 there already: its bound is
            log_slope = torch.where(mask, 0, log_slope)
        return torch.where(mask, x, z), log_slope

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        mask, transform = self._predict(z, context)  # b z = b x
        return torch.where(mask, z, transform.inverse(z))

    def _predict(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Transform]:
        mask = self.mask(x.shape, x.device)
        # No product b x: 0 * inf would be nan.
        kept = x.where(mask, 0)
        if self.mask is none_kept:  # the entries of a channel share one map
            kept = x.new_zeros(x.shape[:2])
        raw = in_network_dtype(self.net, kept, mask, context)
        raw = raw.view(*raw.shape, *[1] * (x.ndim - raw.ndim))
        bound = 0.0 if self.bound is None else (self.bound * ~mask).to(raw)
        return mask, self.transform.of(raw, bound)
