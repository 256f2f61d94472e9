"""Learned dequantization noise (Ho et al. 2019, section 3.1), written as a bijection."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from realnvp.bijections.base import Bijection, in_network_dtype
from realnvp.bijections.coupling import checkerboard
from realnvp.bijections.splines import inverse_rational_quadratic, rational_quadratic

BENDS = 2
STEEPEST = 4.0  # slope of one bend
ROOM, ROOM_IN_FLOAT64 = 2.0**-8, 2.0**-30  # share of each side of a cell that is kept free
SIDES = 4  # neighbors of a pixel
MAX_LEAN = 8.0  # a larger one would let rounding grow without bound from stage to stage

Bend = tuple[Tensor, Tensor, Tensor]


class VariationalDequantization(Bijection):
    """z = v + u' of x = v + u, v = floor(x);  log_det = sum of log du'/du.

    u becomes u' by two bends, one after the other: monotone rational-quadratic maps of [0, 1] with
    slope p at 0 and slope q at 1; c decides where a bend turns from p to q. p, q and c are
    4^tanh(raw), hence in [1/4, 4] for any weights and image, and du'/du is in [1/16, 16].

    For u ~ U[0, 1), as of any flow, the layers behind see noise u' ~ q(u' | v), and log p(x) is
    log p(v + u') - log q(u' | v), the bound of variational dequantization.

    The noise is autoregressive (Hoogeboom et al. 2020): each number's bends depend on the noise of
    the `stages` before, by `lean`. One pass finds z, and x is found stage by stage.

    The cells of colors are oblique: z_c = v_c + u'_c + u'_0 - 1/2 after the first color. So in each
    pixel the first color's noise moves all colors alike, and u'_c is the noise of their difference.
    These cells have volume 1 and fill the space as the cubes do, one for each v, so the bound on
    log P(v) is as before. x stays in the cube [v, v + 1); z is in [-1/2, levels + 1/2).

    net maps the pixels' levels, scaled to [-3, 3], to `outputs` numbers of each pixel: raw p, q, c
    of each bend and channel, and how far each leans. Both are (B, 4C, H/2, W/2): 2x2 squares.
    """

    def __init__(self, net: nn.Module, *, levels: int) -> None:
        super().__init__()
        self.net, self.levels = net, levels

    @classmethod
    def outputs(cls, channels: int) -> int:
        """Numbers of the net for each pixel."""
        return (3 * BENDS + SIDES) * channels + _pairs(channels)

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v = x.floor()
        u = x - v
        raw, leans = self.parameters_of(v, context)
        log_slope, leaning = torch.zeros_like(u), self._lean(leans, u)
        for p, q, c in bends(raw, leaning):
            u, term = rational_quadratic(u, p, q, c)
            log_slope = log_slope + term
        # The layers behind round, and their inverse could reach another cell: other levels.
        room = ROOM_IN_FLOAT64 if u.dtype is torch.float64 else ROOM
        u = u.clamp(room, 1 - room)
        z = torch.cat([v[:, :1] + u[:, :1], v[:, 1:] + (u[:, 1:] + u[:, :1] - 0.5)], dim=1)
        return z, log_slope

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        v, end = cells(z)
        u, (raw, leans) = end, self.parameters_of(v, context)
        # Each round finds one stage more: its bends depend on those of the stages before alone.
        for _ in stages(z.shape[1]):
            leaning, u = self._lean(leans, u), end
            for p, q, c in reversed(bends(raw, leaning)):
                u = inverse_rational_quadratic(u, p, q, c)
        # Rounding could reach the next cell.
        return v + u.clamp(max=1 - self.levels * torch.finfo(u.dtype).eps)

    def parameters_of(self, v: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Raw p, q, c of the levels v, (B, BENDS, 3, C, H, W), and how far each number leans."""
        seen = pixel_unshuffle(6 * v / (self.levels - 1) - 3, 2)
        everything = seen.new_ones((), dtype=torch.bool)  # a mask
        found = pixel_shuffle(in_network_dtype(self.net, seen, everything, context), 2)
        raw, leans = found.tensor_split([3 * BENDS * v.shape[1]], dim=1)
        return raw.view(-1, BENDS, 3, *v.shape[1:]), leans.clamp(-MAX_LEAN, MAX_LEAN)

    def _lean(self, leans: Tensor, u: Tensor) -> Tensor:
        return torch.cat([lean(leans, u, channel) for channel in range(u.shape[1])], dim=1)


def cells(z: Tensor) -> tuple[Tensor, Tensor]:
    """v and u' of z."""
    first = z[:, :1].floor()
    upright = z[:, :1] - first
    moved = z[:, 1:] - (upright - 0.5)
    v = moved.floor()
    return torch.cat([first, v], dim=1), torch.cat([upright, moved - v], dim=1)


def bends(raw: Tensor, leaning: Tensor) -> list[Bend]:
    """p, q, c of each bend, (B, ...) each, from raw numbers (B, BENDS, 3, ...).

    p rises with `leaning` and q falls, so that u' is larger.
    """
    p, q, c = raw.unbind(2)
    leaning = leaning[:, None]
    raw = torch.stack([p + leaning, q - leaning, c], dim=2)
    p, q, c = torch.exp(math.log(STEEPEST) * raw.tanh()).unbind(2)
    return list(zip(p.unbind(1), q.unbind(1), c.unbind(1), strict=True))


def lean(leans: Tensor, u: Tensor, channel: int) -> Tensor:
    """How far the noise of a channel leans to 1, (B, 1, H, W), by the noise u.

    It leans on the noise of its pixel's channels before; in odd squares of the checkerboard also on
    the noise of its channel in the four neighbors. leans: (B, C (C - 1) / 2 + 4 C, H, W).
    """
    count, t = u.shape[1], 2 * u - 1
    by_channels, by_sides = leans.tensor_split([_pairs(count)], dim=1)
    even = t[:, channel : channel + 1].where(~checkerboard(u.shape, u.device), 0)
    even = pad(even, (1, 1, 1, 1))
    above, below = even[..., :-2, 1:-1], even[..., 2:, 1:-1]
    left, right = even[..., 1:-1, :-2], even[..., 1:-1, 2:]
    found = (by_sides[:, channel::count] * torch.cat([above, below, left, right], dim=1)).sum(
        1, keepdim=True
    )
    first = _pairs(channel)
    before = by_channels[:, first : first + channel] * t[:, :channel]
    return found + before.sum(1, keepdim=True)


def stages(channels: int) -> list[slice]:
    """The channels of `even_squares`, then `odd_squares`, of each stage: color by color."""
    return [
        slice(first + c, first + 2 * channels, channels)
        for first in (0, 2 * channels)
        for c in range(channels)
    ]


def _pairs(channels: int) -> int:
    return channels * (channels - 1) // 2
