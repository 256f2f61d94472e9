"""The two moves of the multi-scale architecture (section 3.6), each keeping the shape of its input."""

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from realnvp.bijections.base import Bijection


class Squeezed(Bijection):
    """unsqueeze . f . squeeze: f sees (4C, H/2, W/2), each 2x2 square of pixels as channels; log_det is f's."""

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.bijection(pixel_unshuffle(x, 2))
        return pixel_shuffle(z, 2), log_det

    def _inverse(self, z: Tensor) -> Tensor:
        return pixel_shuffle(self.bijection.inverse(pixel_unshuffle(z, 2)), 2)


class FactorOut(Bijection):
    """Half of x goes on through f, as (2C, H/2, W/2); the other half is latent already and stays where it is (eq 11).

    The even squares of the checkerboard stay: the scale's couplings have changed them twice, the odd ones once.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, log_det = self.bijection(odd_squares(x))
        return with_odd_squares(x, h), log_det

    def _inverse(self, z: Tensor) -> Tensor:
        return with_odd_squares(z, self.bijection.inverse(odd_squares(z)))


def odd_squares(x: Tensor) -> Tensor:
    """(B, 2C, H/2, W/2): of each 2x2 square the upper right pixel's channels, then the lower left one's."""
    return torch.cat([x[..., 0::2, 1::2], x[..., 1::2, 0::2]], dim=1)


def with_odd_squares(x: Tensor, h: Tensor) -> Tensor:
    """x with its odd squares replaced by h, (B, 2C, H/2, W/2)."""
    upper_right, lower_left = h.chunk(2, dim=1)
    offsets = torch.stack([x[..., 0::2, 0::2], upper_right, lower_left, x[..., 1::2, 1::2]], dim=2)
    return pixel_shuffle(offsets.flatten(1, 2), 2)


def latent_levels(height: int, width: int, num_scales: int) -> Tensor:
    """(H, W), integers: the scale, 0 to num_scales - 1, at which each entry of z was factored out."""
    levels = torch.zeros(1, 1, height, width, dtype=torch.long)
    if num_scales > 1:
        coarser = latent_levels(height // 2, width // 2, num_scales - 1) + 1
        levels = with_odd_squares(levels, coarser.expand(1, 2, -1, -1))
    return levels[0, 0]
