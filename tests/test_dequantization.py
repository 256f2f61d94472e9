"""Learned dequantization noise: bijections of the cell of each gray level."""

import pytest
import torch
from torch import Tensor, nn

from realnvp.bijections import (
    Bijection,
    Dequantisation,
    JointDequantisation,
    ObliqueDequantisation,
)
from realnvp.bijections.dequantization import stages
from realnvp.bijections.multiscale import even_squares, odd_squares
from realnvp.data import dequantize
from tests.flows import learned_noise, moved, pixels


@pytest.mark.parametrize("levels", [17, 256])
def test_learned_noise_stays_in_its_cell_and_is_a_density(levels: int) -> None:
    """For each v the density of u, q(u) = |du'/du| if all else is left out, integrates to 1; no u'
    leaves [0, 1).
    """
    layer = moved(learned_noise(1, levels=levels), pixels(2, 1, 2, 2, levels=levels))
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    v = torch.tensor([[0, levels - 1], [levels // 2, 3]], dtype=torch.float64).expand(
        len(u), 1, 2, 2
    )
    for row, column in ((0, 0), (0, 1), (1, 0)):
        x = v + 0.5
        x[:, 0, row, column] += u - 0.5
        z, log_det = layer(x)
        others = layer(v[:1] + 0.5)[1] - one_pixel(layer, v[:1] + 0.5, row, column)
        assert torch.equal(z.floor(), v)
        assert (log_det - others).exp().mean().item() == pytest.approx(1, abs=2e-3)
        assert (z[1:, 0, row, column] > z[:-1, 0, row, column]).all()


def one_pixel(layer: Bijection, x: Tensor, row: int, column: int) -> Tensor:
    """log |dz/dx| of one pixel, by autograd."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(x)[0][0, 0, row, column], x)
    return slope[0, 0, row, column].log()


class Raw(nn.Module):
    """A network that says the same of every image."""

    def __init__(self, raw: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(raw)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.raw.expand(len(x), -1, -1, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_learned_noise_is_exact_for_any_weights_and_any_place_in_a_cell(
    seed: int, size: float, dtype: torch.dtype
) -> None:
    """And its slope is within [1/16, 16], so that the way back is off by no more than 16 times z's
    rounding.
    """
    random = torch.Generator().manual_seed(seed)
    raw = size * torch.randn(1, 4 * Dequantisation.NUMBERS, 20, 20, dtype=dtype, generator=random)
    layer = Dequantisation(Raw(raw), levels=256).eval()
    v = torch.randint(0, 256, (12, 1, 40, 40), generator=random)
    near = 10 ** (-16 * torch.rand(v.shape, dtype=torch.float64, generator=random))  # 0 and 1
    u = torch.stack([near, 1 - near, torch.rand(v.shape, dtype=torch.float64, generator=random)])[
        torch.arange(12) % 3, torch.arange(12)
    ]
    x = dequantize(v.byte(), u.to(dtype)).requires_grad_()
    z, log_det = layer(x)
    back = layer.inverse(z)
    for y in (z, back):
        assert torch.equal(y.floor(), v.to(dtype))
    rounding = 256 * torch.finfo(dtype).eps
    assert (back - x).abs().max() <= 16 * rounding
    assert (layer(back)[0] - z).abs().max() <= 16 * rounding
    (slope,) = torch.autograd.grad(z.sum(), x)
    slope = torch.where(
        z - v < 1 - 2 * rounding, slope, 1
    )  # elsewhere rounding is kept from the next cell, which has no slope
    assert (slope > (1 - 1e-5) / 16).all()
    assert (slope < 16 * (1 + 1e-5)).all()
    assert log_det.isfinite().all()


@pytest.mark.parametrize("kind", [JointDequantisation, ObliqueDequantisation])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_joint_noise_is_found_stage_by_stage(size: float, kind: type[Dequantisation]) -> None:
    """For any weights; no number leans on those of its own stage or of a later one."""
    random = torch.Generator().manual_seed(0)
    outputs = 4 * JointDequantisation.outputs(3)
    raw = size * torch.randn(1, outputs, 3, 4, dtype=torch.float64, generator=random)
    layer = kind(Raw(raw), levels=256).eval()
    v = torch.randint(0, 256, (2, 3, 6, 8), generator=random).double()
    u = torch.rand(v.shape, dtype=torch.float64, generator=random).requires_grad_()
    z, _ = layer(v + u)
    assert torch.equal(layer._cells(z)[0], v)
    assert (layer.inverse(z) - v - u).abs().max() < 1e-7
    found = in_stages(layer._cells(z)[1])
    # Red, green and blue in the even squares, then in the odd ones, which lean on the even ones.
    expected = [{0}, {0, 1}, {0, 1, 2}, {0, 3}, {1, 3, 4}, {2, 3, 4, 5}]
    for part, leans_on in zip(stages(3), expected, strict=True):
        (slope,) = torch.autograd.grad(found[:, part].sum(), u, retain_graph=True)
        slopes = in_stages(slope)
        found_on = {k for k, other in enumerate(stages(3)) if slopes[:, other].abs().max() > 1e-12}
        assert found_on == leans_on


def test_one_noise_moves_all_colours_of_oblique_cells() -> None:
    """z_c = v_c + u'_c + u'_0 - 1/2: a first layer that says nothing of the noise leaves u."""
    outputs = 4 * ObliqueDequantisation.outputs(3)
    raw = torch.zeros(1, outputs, 1, 1, dtype=torch.float64)
    layer = ObliqueDequantisation(Raw(raw), levels=256).eval()
    v, u = torch.tensor([[7.0, 0, 255], [0.25, 0.5, 0.125]]).double()[:, None, :, None, None]
    v, u = v.expand(1, 3, 2, 2), u.expand(1, 3, 2, 2)
    z, log_det = layer(v + u)
    assert z[0, :, 0, 0].tolist() == [7.25, 0.25, 254.875]
    assert log_det.item() == 0
    assert torch.equal(layer.inverse(z), v + u)


@pytest.mark.parametrize("kind", [Dequantisation, JointDequantisation, ObliqueDequantisation])
def test_cells_fill_the_space_of_the_levels(kind: type[Dequantisation]) -> None:
    """So probabilities of images add up: each z is in the cell of one image."""
    layer = kind(Raw(torch.zeros(1, 4 * kind.outputs(2), 1, 1).double()), levels=3).eval()
    grid = (torch.arange(16).double() + 0.5) / 4
    z = torch.cartesian_prod(grid, grid - 0.0625)[:, :, None, None].expand(-1, -1, 2, 2)
    v, u = layer._cells(z)
    assert ((u >= 0) & (u < 1)).all()
    assert (layer._placed(v, u) - z).abs().max() < 1e-12
    whole = (v[:, 0, 0, 0] == 1) & (v[:, 1, 0, 0] == 2)
    assert whole.sum() == 16  # of volume 1, on a grid of quarters


def in_stages(x: Tensor) -> Tensor:
    return torch.cat([even_squares(x), odd_squares(x)], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_a_cell_lead_nowhere_else(dtype: torch.dtype) -> None:
    layer = moved(learned_noise(1), pixels(2, 1, 2, 2)).to(dtype)
    v = torch.randint(-20, 280, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    for x in (v, torch.nextafter(v + 1, v)):
        for end in (layer(x)[0], layer.inverse(x)):
            assert torch.equal(end.floor(), v)
        assert layer(x)[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_an_oblique_cell_lead_nowhere_else(dtype: torch.dtype) -> None:
    """Wherever the first colour's noise moves it."""
    layer = moved(learned_noise(3, kind=ObliqueDequantisation), pixels(2, 3, 2, 2)).to(dtype)
    random = torch.Generator().manual_seed(0)
    v = torch.randint(0, 256, (500, 3, 4, 4), generator=random).to(dtype)
    u = torch.rand(v.shape, generator=random).to(dtype)
    for end in (torch.zeros_like(u), torch.nextafter(v + 1, v) - v):
        x = v + torch.cat([u[:, :1], end[:, 1:]], dim=1)
        z, log_det = layer(x)
        assert torch.equal(layer._cells(z)[0], v)
        assert torch.equal(layer.inverse(z).floor(), v)
        assert log_det.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_layers_behind_round_leads_to_no_other_oblique_cell(dtype: torch.dtype) -> None:
    layer = moved(learned_noise(3, kind=ObliqueDequantisation), pixels(2, 3, 2, 2)).to(dtype)
    random = torch.Generator().manual_seed(0)
    v = torch.randint(0, 256, (500, 3, 4, 4), generator=random).to(dtype)
    for x in (v, torch.nextafter(v + 1, v)):
        z, _ = layer(x)
        rounding = 64 * 256 * torch.finfo(dtype).eps
        error = torch.rand(z.shape, generator=random).to(dtype) * 2 - 1
        assert torch.equal(layer.inverse(z + rounding * error).floor(), v)
