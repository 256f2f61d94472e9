"""Dequantisation noise that is learned (Ho et al. 2019, section 3.1), written as a bijection."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from realnvp.bijections.base import Bijection
from realnvp.bijections.entries import sum_per_example
from realnvp.bijections.precision import in_the_networks_dtype
from realnvp.bijections.splines import bent, unbent

BENDS = 2
STEEPEST = 4.0  # of one bend


class Dequantisation(Bijection):
    """z = v + u', x = v + u, v = floor(x);  log_det = sum of log du'/du.

    Each cell [v, v + 1) is mapped to itself.

    u becomes u' by two bends (`bent`), one after the other, of slope p at 0 and slope q at 1; c
    decides where it turns from p to q. p, q and c are 4^tanh(raw), hence in [1/4, 4] for any
    weights and image. The slope of a bend is in [1/4, 4], too, so du'/du is in [1/16, 16]. The
    inverse is the root of a quadratic, exact but for rounding: an error in z becomes at most 16
    times as large in x.

    For u ~ U[0, 1) the layers behind see noise u' ~ q(u' | v). log p(x) is then
    log p(v + u') - log q(u' | v), the bound of variational dequantisation. So callers draw uniform
    noise, as for any flow.

    net maps the pixels' levels to raw p, q, c of each bend: (B, 4C, H/2, W/2), scaled to [-3, 3],
    with 2x2 squares as channels, to (B, 4 `NUMBERS` C, H/2, W/2).
    """

    NUMBERS = 3 * BENDS
    """Numbers of the net for each entry of x: p, q and c of each bend."""

    def __init__(self, net: nn.Module, *, levels: int) -> None:
        super().__init__()
        self.net = net
        self.levels = levels
        self.register_load_state_dict_pre_hook(_refuse_version_0_1_0)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, terms = self.forward_map(x, given)
        return z, sum_per_example(terms)

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v, u, bends = self._predict(x, given)
        log_slope = torch.zeros_like(u)
        for p, q, c in bends:
            u, term = bent(u, p, q, c)
            log_slope = log_slope + term
        return self._within(v, u), log_slope

    def _inverse(self, z: Tensor, given: Tensor | None = None) -> Tensor:
        v, u, bends = self._predict(z, given)
        for p, q, c in reversed(bends):
            u = unbent(u, p, q, c)
        return self._within(v, u)

    def _predict(
        self, x: Tensor, given: Tensor | None
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, ...]]]:
        """v, u, and p, q, c of each bend."""
        v = x.floor()
        seen = pixel_unshuffle(6 * v / (self.levels - 1) - 3, 2)
        # The mask: all of it is seen.
        whole = seen.new_ones((), dtype=torch.bool)
        raw = in_the_networks_dtype(self.net, seen, whole, given)
        bends = pixel_shuffle(torch.exp(math.log(STEEPEST) * raw.tanh()), 2).chunk(BENDS, dim=1)
        return v, x - v, [bend.chunk(3, dim=1) for bend in bends]

    def _within(self, v: Tensor, u: Tensor) -> Tensor:
        """v + u, clamped into the cell [v, v + 1): rounding could reach the next cell."""
        return v + u.clamp(max=1 - self.levels * torch.finfo(u.dtype).eps)


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
