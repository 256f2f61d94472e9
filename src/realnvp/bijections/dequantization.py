"""Dequantisation noise that is learned (Ho et al. 2019, section 3.1), written as a bijection."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from realnvp.bijections.base import Bijection, in_the_networks_dtype, sum_per_example
from realnvp.bijections.masks import checkerboard
from realnvp.bijections.splines import inverse_rational_quadratic, rational_quadratic

BENDS = 2
STEEPEST = 4.0  # of one bend
ROOM, ROOM_IN_FLOAT64 = 2.0**-8, 2.0**-30
"""Of an oblique cell: this share of each side is kept free."""
SIDES = 4  # of a pixel, each with a neighbour
MOST_LEAN = 8.0  # or rounding could grow without bound from stage to stage

Bend = tuple[Tensor, Tensor, Tensor]


class Dequantisation(Bijection):
    """z = v + u', x = v + u, v = floor(x);  log_det = sum of log du'/du.

    Each cell [v, v + 1) is mapped to itself.

    u becomes u' by two bends (`bent`), one after the other, of slope p at 0 and slope q at 1; c
    decides where it turns from p to q. p, q and c are 4^tanh(raw), hence in [1/4, 4] for any
    weights and image. The slope of a bend is in [1/4, 4], too, so du'/du is in [1/16, 16]. The
    inverse is the root of a quadratic, exact but for rounding: an error in z becomes at most 16
    times as large in x.

    For u ~ U[0, 1) the layers behind see noise u' ~ q(u' | v). log p(x) is then
    log p(v + u') - log q(u' | v), the bound of variational dequantization. So callers draw uniform
    noise, as for any flow.

    net maps the pixels' levels, scaled to [-3, 3], to `outputs` numbers of each pixel: raw p, q, c
    of each bend and entry. Both have 2x2 squares as channels: (B, 4C, H/2, W/2).
    """

    NUMBERS = 3 * BENDS
    """Numbers of the net for each entry of x: p, q and c of each bend."""

    joint = False
    """Whether u' depends on the u of other numbers."""
    oblique = False
    """Whether the cells are `ObliqueDequantisation`'s."""

    def __init__(self, net: nn.Module, *, levels: int) -> None:
        super().__init__()
        self.net = net
        self.levels = levels
        self.register_load_state_dict_pre_hook(_refuse_version_0_1_0)  # type: ignore[no-untyped-call]

    @classmethod
    def outputs(cls, channels: int) -> int:
        """Numbers of the net for each pixel."""
        leans = _pairs(channels) + SIDES * channels
        return cls.NUMBERS * channels + cls.joint * leans

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, terms = self.pointwise_log_det(x, context)
        return z, sum_per_example(terms)

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v = x.floor()
        u, (raw, leans) = x - v, self.noise_numbers(v, context)
        log_slope, lean = torch.zeros_like(u), self._lean(leans, u)
        for p, q, c in bends(raw, lean):
            u, term = rational_quadratic(u, p, q, c)
            log_slope = log_slope + term
        return self._placed(v, u), log_slope

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        v, end = self._cells(z)
        u, (raw, leans) = end, self.noise_numbers(v, context)
        # A round finds one stage more: its numbers lean on those of the stages before alone.
        for _ in stages(z.shape[1]) if self.joint else (1,):
            lean, u = self._lean(leans, u), end
            for p, q, c in reversed(bends(raw, lean)):
                u = inverse_rational_quadratic(u, p, q, c)
        return self._within(v, u)

    def noise_numbers(
        self, v: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Raw p, q, c, (B, BENDS, 3, C, H, W), of levels v, and by how much each entry leans."""
        seen = pixel_unshuffle(6 * v / (self.levels - 1) - 3, 2)
        # The mask: all of it is seen.
        whole = seen.new_ones((), dtype=torch.bool)
        said = pixel_shuffle(in_the_networks_dtype(self.net, seen, whole, context), 2)
        own, leans = said.tensor_split([self.NUMBERS * v.shape[1]], dim=1)
        raw = own.view(-1, BENDS, 3, *v.shape[1:])
        return raw, leans.clamp(-MOST_LEAN, MOST_LEAN) if self.joint else None

    def _lean(self, leans: Tensor | None, u: Tensor) -> Tensor | None:
        if leans is None:
            return None
        return torch.cat([leaning(leans, u, c) for c in range(u.shape[1])], dim=1)

    def _placed(self, v: Tensor, u: Tensor) -> Tensor:
        """z: where in its cell u' lies."""
        return self._within(v, u)

    def _cells(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """v and u' of z."""
        v = z.floor()
        return v, z - v

    def _within(self, v: Tensor, u: Tensor) -> Tensor:
        """v + u, clamped into the cell [v, v + 1): rounding could reach the next cell."""
        return v + u.clamp(max=1 - self.levels * torch.finfo(u.dtype).eps)


class JointDequantisation(Dequantisation):
    """`Dequantisation` whose u' depends on the u of other numbers, too, by `leaning`.

    The noise of a pixel's colours, and of neighbours, can then be alike (Hoogeboom et al. 2020,
    autoregressive dequantization). Where a picture's levels differ by certain integers, as those of
    a smooth sky do, the layers behind see it; independent noise hides it.

    The Jacobian is triangular in the order of `stages`: z is found at once, x stage by stage. So an
    error in z also passes from stage to stage, more than 16 times as large in x.

    The net also says how far each number leans.
    """

    joint = True


class ObliqueDequantisation(JointDequantisation):
    """`JointDequantisation` in oblique cells: z = v + u', but for colours after the first

        z_c = v_c + u'_c + u'_0 - 1/2.

    So in each pixel the first colour's noise moves all colours alike, and u'_c is the noise of
    their difference. Where red less green is constant in a whole sky, u'_c is narrow, and
    the first colour's noise is as wide as brightness wants it.

    These cells have volume 1 and fill the space as the cubes do, one for each v. So the bound on
    log P(v) is as before. x stays in the cube [v, v + 1); z is in [-1/2, levels + 1/2).
    """

    oblique = True

    def _placed(self, v: Tensor, u: Tensor) -> Tensor:
        # What the layers behind round, and their inverse, could reach another cell. Cells beside it
        # end elsewhere, so that all colours' levels would be others.
        room = ROOM_IN_FLOAT64 if u.dtype is torch.float64 else ROOM
        u = u.clamp(room, 1 - room)
        return torch.cat([v[:, :1] + u[:, :1], v[:, 1:] + (u[:, 1:] + u[:, :1] - 0.5)], dim=1)

    def _cells(self, z: Tensor) -> tuple[Tensor, Tensor]:
        first, u = super()._cells(z[:, :1])
        others, v = super()._cells(z[:, 1:] - (u - 0.5))
        return torch.cat([first, others], dim=1), torch.cat([u, v], dim=1)


def bends(raw: Tensor, lean: Tensor | None) -> list[Bend]:
    """p, q, c of each bend, (B, ...) each, from raw numbers (B, BENDS, 3, ...).

    lean: of `leaning`. p rises with it and q falls, so that u' is larger.
    """
    if lean is not None:
        p, q, c = raw.unbind(2)
        lean = lean[:, None]
        raw = torch.stack([p + lean, q - lean, c], dim=2)
    p, q, c = torch.exp(math.log(STEEPEST) * raw.tanh()).unbind(2)
    return list(zip(p.unbind(1), q.unbind(1), c.unbind(1), strict=True))


def leaning(leans: Tensor, u: Tensor, channel: int) -> Tensor:
    """How far the noise of a channel leans to 1, (B, 1, H, W), given the noise u.

    It leans on the noise of its pixel's channels before. In odd squares of the checkerboard it also
    leans on the noise of its own channel in the four neighbours, which are even squares.

    leans: (B, C (C - 1) / 2 + 4 C, H, W): by how much.
    """
    count, t = u.shape[1], 2 * u - 1
    by_channels, by_sides = leans.tensor_split([_pairs(count)], dim=1)
    even = t[:, channel : channel + 1].where(~checkerboard(u.shape, u.device), 0)
    even = pad(even, (1, 1, 1, 1))
    above, below = even[..., :-2, 1:-1], even[..., 2:, 1:-1]
    left, right = even[..., 1:-1, :-2], even[..., 1:-1, 2:]
    lean = (by_sides[:, channel::count] * torch.cat([above, below, left, right], dim=1)).sum(
        1, keepdim=True
    )
    first = _pairs(channel)
    before = by_channels[:, first : first + channel] * t[:, :channel]
    return lean + before.sum(1, keepdim=True)


def stages(channels: int) -> list[slice]:
    """The channels that each stage of the noise has, which lean on earlier stages alone.

    They are channels of `even_squares`, then `odd_squares`: colour by colour, even squares first.
    """
    return [
        slice(first + c, first + 2 * channels, channels)
        for first in (0, 2 * channels)
        for c in range(channels)
    ]


def _pairs(channels: int) -> int:
    return channels * (channels - 1) // 2


def _refuse_version_0_1_0(
    module: nn.Module,
    tensors: dict[str, Any],
    prefix: str,
    *_: object,
) -> None:
    """ValueError: the weights are of 0.1.0's layer, whose trained bound made another density."""
    if f"{prefix}bound" in tensors:
        raise ValueError(
            "the learned noise of version 0.1.0 was no bijection, and is computed no more: "
            "train again"
        )
