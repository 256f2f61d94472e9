"""How odd a place is, among the places of normal images."""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

QUANTILES = 1024
"""How many are kept, the more the nearer to the odd end."""
STEEPEST = 8.0
LEAST, MOST = 1e-6, 1e30
"""What is less or more odd counts as this odd."""


class Shares(NamedTuple):
    """Quantiles of the oddness of normal places, in rising order, (Q,) each."""

    log_oddness: Tensor
    log_share: Tensor
    """Natural logarithm of the share of normal places that are odder."""

    @classmethod
    def of_places(cls, oddness: Tensor) -> Self:
        """Of the oddness of normal places, (n,)."""
        ordered = oddness.double().clamp(LEAST, MOST).sort(descending=True).values
        count = len(ordered)
        # How many places are odder: 0, 1, 2 ..., and of many ever fewer.
        odder = torch.logspace(0, 1, QUANTILES, base=count, dtype=torch.float64, device="cpu") - 1
        odder = odder.round().long().clamp(max=count - 1)
        odder = odder.unique()  # type: ignore[no-untyped-call]  # torch's own
        return cls(ordered[odder].log().flip(0), ((odder + 1).double() / (count + 1)).log().flip(0))

    def among_normal(self, oddness: Tensor) -> Tensor:
        """The share of normal places that are odder, of oddness's shape.

        Beyond the oddest normal place it goes on as a power of oddness, whose exponent is that of
        the oddest hundredth, `STEEPEST` at most: so what is far out is still ranked.
        """
        x, known = oddness.clamp(LEAST, MOST).log(), self.log_oddness.to(oddness)
        right = torch.searchsorted(known, x.contiguous()).clamp(1, len(known) - 1)
        left = right - 1
        step = (known[right] - known[left]).clamp(min=1e-9)
        inside = ((x - known[left]) / step).clamp(0, 1)
        share = self.log_share.to(oddness)
        beyond = (x - known[-1]).clamp(min=0)
        return torch.exp(torch.lerp(share[left], share[right], inside) - self._exponent() * beyond)

    def _exponent(self) -> float:
        """Of the share as a power of oddness, over the oddest hundredth of the normal places."""
        start = int(torch.searchsorted(self.log_share.neg(), math.log(100)))
        start = min(start, len(self.log_share) - 2)
        fall = self.log_share[start] - self.log_share[-1]
        rise = (self.log_oddness[-1] - self.log_oddness[start]).clamp(min=1e-9)
        return min(STEEPEST, float(fall / rise))
