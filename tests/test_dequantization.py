"""Learned dequantization noise: a bijection of the cell of each gray level."""

import math

import pytest
import torch
from torch import Tensor, nn

from realnvp.bijections import VariationalDequantization
from realnvp.bijections.dequantization import cells, stages
from realnvp.bijections.multiscale import even_squares, odd_squares
from tests.flows import learned_noise, moved, pixels


class Constant(nn.Module):
    """A network with the same output for every image."""

    def __init__(self, raw: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(raw)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.raw.expand(len(x), -1, -1, -1)


def random_layer(size: float, *shape: int, channels: int = 3) -> VariationalDequantization:
    outputs = 4 * VariationalDequantization.outputs(channels)
    random = torch.Generator().manual_seed(0)
    raw = size * torch.randn(1, outputs, *shape, dtype=torch.float64, generator=random)
    return VariationalDequantization(Constant(raw), levels=256).eval()


def levels_and_noise(*shape: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    v = torch.randint(0, 256, shape, generator=random).double()
    return v, torch.rand(shape, dtype=torch.float64, generator=random)


def in_stages(x: Tensor) -> Tensor:
    return torch.cat([even_squares(x), odd_squares(x)], dim=1)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_noise_is_found_stage_by_stage(size: float) -> None:
    """For any weights; no number depends on those of its own stage or of a later one."""
    layer = random_layer(size, 3, 4)
    v, u = levels_and_noise(2, 3, 6, 8)
    u.requires_grad_()
    z, _ = layer(v + u)
    assert torch.equal(cells(z)[0], v)
    assert (layer.inverse(z) - v - u).abs().max() < 1e-7
    found = in_stages(cells(z)[1])
    # Red, green and blue in the even squares, then in the odd ones, which lean on the even ones.
    expected = [{0}, {0, 1}, {0, 1, 2}, {0, 3}, {1, 3, 4}, {2, 3, 4, 5}]
    for part, leans_on in zip(stages(3), expected, strict=True):
        (slope,) = torch.autograd.grad(found[:, part].sum(), u, retain_graph=True)
        slopes = in_stages(slope)
        found_on = {k for k, other in enumerate(stages(3)) if slopes[:, other].abs().max() > 1e-12}
        assert found_on == leans_on


def test_noise_of_a_pixel_is_a_density() -> None:
    """The integral of du'/du over the cell is 1, and u' rises in u."""
    layer = moved(learned_noise(1), pixels(2, 1, 2, 2))
    x = torch.tensor([[0.0, 255], [128, 3]]).double().expand(20_000, 1, 2, 2) + 0.5
    x[:, 0, 0, 1] += (torch.arange(len(x)) + 0.5) / len(x) - 0.5  # an odd square: none leans on it
    z, terms = layer.pointwise_log_det(x)
    assert terms[:, 0, 0, 1].exp().mean().item() == pytest.approx(1, abs=2e-3)
    assert (z.diff(dim=0)[:, 0, 0, 1] > 0).all()
    assert (z.diff(dim=0).flatten(1)[:, [0, 2, 3]] == 0).all()


@pytest.mark.parametrize("size", [1, 1000])
def test_slopes_are_bounded(size: float) -> None:
    v, u = levels_and_noise(2, 3, 8, 8)
    _, terms = random_layer(size, 4, 4).pointwise_log_det(v + u)
    assert terms.abs().max() <= math.log(16) + 1e-9


def test_the_first_color_moves_all_colors() -> None:
    layer = random_layer(0, 1, 1)
    v, u = torch.tensor([[7.0, 0, 255], [0.25, 0.5, 0.125]]).double()[:, None, :, None, None]
    v, u = v.expand(1, 3, 2, 2), u.expand(1, 3, 2, 2)
    z, log_det = layer(v + u)
    assert z[0, :, 0, 0].tolist() == [7.25, 0.25, 254.875]
    assert log_det.item() == 0
    assert torch.equal(layer.inverse(z), v + u)


def test_cells_fill_the_space_of_the_levels() -> None:
    """So the probabilities of images add up: each z is in the cell of one image."""
    grid = (torch.arange(16).double() + 0.5) / 4
    z = torch.cartesian_prod(grid, grid - 0.0625)[:, :, None, None].expand(-1, -1, 2, 2)
    v, u = cells(z)
    assert ((u >= 0) & (u < 1)).all()
    one_cell = (v[:, 0, 0, 0] == 1) & (v[:, 1, 0, 0] == 2)
    assert one_cell.sum() == 16  # volume 1 on a grid of quarters


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_ends_of_a_cell_lead_to_no_other(channels: int, dtype: torch.dtype) -> None:
    """Wherever the first color's noise moves it, and if the layers behind round."""
    layer = moved(learned_noise(channels), pixels(2, channels, 2, 2)).to(dtype)
    v, u = (tensor.to(dtype) for tensor in levels_and_noise(500, channels, 4, 4))
    random = torch.rand(v.shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    error = 64 * 256 * torch.finfo(dtype).eps * (2 * random - 1)
    for end in (torch.zeros_like(u), torch.nextafter(v + 1, v) - v):
        for first in (u[:, :1], end[:, :1]):
            z, log_det = layer(v + torch.cat([first, end[:, 1:]], dim=1))
            assert torch.equal(cells(z)[0], v)
            assert torch.equal(layer.inverse(z + error).floor(), v)
            assert log_det.isfinite().all()
