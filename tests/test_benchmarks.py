"""What is compared against must be right, too."""

import math

import torch
from torch import Tensor, nn

from benchmarks.public_copy import PublicCopy
from realnvp.config.presets import PRESETS
from realnvp.config.resolve import resolve


class Identity(nn.Module):
    def forward(self, x: Tensor, log_det: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
        return x, log_det


def test_the_stand_ins_density_has_mass_one() -> None:
    """Of one pixel, without couplings: the mass of N(0, 1) within the logit's range."""
    model = PublicCopy(resolve(PRESETS["photos"], (3, 32, 32))).double()
    model.flows = Identity()
    x = torch.linspace(0, 256, 20_001, dtype=torch.float64)
    density = model.log_prob(x[:, None, None, None]).exp()
    mass = torch.trapezoid(density, x)
    most = math.log(0.95 / 0.05)
    assert abs(mass - math.erf(most / math.sqrt(2))) < 1e-4
