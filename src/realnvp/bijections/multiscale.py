"""The two moves of the multi-scale flow (section 3.6), which keep the shape of x."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from realnvp.bijections.base import Bijection


class Nested(Bijection):
    """f acts on a part of x, (B, C', H/2, W/2); the rest stays."""

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    @abstractmethod
    def part(self, x: Tensor) -> Tensor:
        """The part of x that f maps."""

    @abstractmethod
    def whole(self, x: Tensor, h: Tensor) -> Tensor:
        """x, whose part is replaced by h."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h, log_det = self.bijection(self.part(x), context)
        return self.whole(x, h), log_det

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h, terms = self.bijection.pointwise_log_det(self.part(x), context)
        return self.whole(x, h), self.whole(x.new_zeros(()).expand(x.shape), terms)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.whole(z, self.bijection.inverse(self.part(z), context))


class Squeezed(Nested):
    """unsqueeze . f . squeeze: f sees (4C, H/2, W/2), each 2x2 square of pixels as channels.

    by_color: the even squares of the checkerboard come first. A channel-wise coupling is then a
    checkerboard coupling at half the resolution.
    """

    def __init__(self, bijection: Bijection, *, by_color: bool = False) -> None:
        super().__init__(bijection)
        self.by_color = by_color

    def part(self, x: Tensor) -> Tensor:
        if not self.by_color:
            return pixel_unshuffle(x, 2)
        return torch.cat([even_squares(x), odd_squares(x)], dim=1)

    def whole(self, x: Tensor, h: Tensor) -> Tensor:
        return from_squares(*h.chunk(2, dim=1)) if self.by_color else pixel_shuffle(h, 2)


class FactorOut(Nested):
    """Half of x goes on through f, as (2C, H/2, W/2); the even squares stay, latent (eq 11)."""

    def part(self, x: Tensor) -> Tensor:
        return odd_squares(x)

    def whole(self, x: Tensor, h: Tensor) -> Tensor:
        return from_squares(even_squares(x), h)


def even_squares(x: Tensor) -> Tensor:
    """(B, 2C, H/2, W/2): the channels of each 2x2 square's upper left, then lower right pixel."""
    return torch.cat([x[..., 0::2, 0::2], x[..., 1::2, 1::2]], dim=1)


def odd_squares(x: Tensor) -> Tensor:
    """(B, 2C, H/2, W/2): the channels of each 2x2 square's upper right, then lower left pixel."""
    return torch.cat([x[..., 0::2, 1::2], x[..., 1::2, 0::2]], dim=1)


def from_squares(even: Tensor, odd: Tensor) -> Tensor:
    """(B, C, H, W) from `even_squares` and `odd_squares`, (B, 2C, H/2, W/2) each."""
    upper_left, lower_right = even.chunk(2, dim=1)
    upper_right, lower_left = odd.chunk(2, dim=1)
    offsets = torch.stack([upper_left, upper_right, lower_left, lower_right], dim=2)
    return pixel_shuffle(offsets.flatten(1, 2), 2)


def side_divisor(module: nn.Module) -> int:
    """2^depth, which must divide heights and widths; depth: of nested halvings."""
    further = max((side_divisor(child) for child in module.children()), default=1)
    return 2 * further if isinstance(module, Nested) else further


def latent_levels(height: int, width: int, num_scales: int) -> Tensor:
    """(H, W), integers: the scale, 0 to num_scales - 1, at which a pixel of z is factored out."""
    levels = torch.zeros(1, 1, height, width, dtype=torch.long, device="cpu")
    if num_scales > 1:
        coarser = latent_levels(height // 2, width // 2, num_scales - 1) + 1
        levels = from_squares(even_squares(levels), coarser.expand(1, 2, -1, -1))
    return levels[0, 0]
