"""Every equation of the paper, spelled out a second way."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from realnvp.bijections import (
    Affine,
    BatchNorm,
    Chain,
    Coupling,
    FactorOut,
    Logit,
    Squeezed,
    channelwise,
    checkerboard,
    latent_levels,
)
from realnvp.flows.flow import Flow, StandardNormal
from realnvp.moments import MovingMoments, averaging
from realnvp.nets.layers import WeightNormConv
from realnvp.nets.resnet import ResNet, both_signs
from tests.flows import image_flow, moved, normal, pixels

CPU = torch.device("cpu")


def test_eq_2_and_3_change_of_variable() -> None:
    """log p_X(x) = log p_Z(f(x)) + log |det df/dx| of x = mean + sqrt(var + eps) z."""
    norm, x = BatchNorm(2).double().eval(), normal(5, 2, 1, 3)
    mean, var = torch.tensor([[1.0, -2.0], [0.25, 9.0]]).double()
    norm.moments.mean, norm.moments.var = mean, var
    columns = mean[:, None, None].expand(2, 1, 3), (var + 1e-4).sqrt()[:, None, None]
    expected = torch.distributions.Normal(*columns).log_prob(x)
    assert (Flow(norm, StandardNormal()).log_prob(x) - expected.sum((1, 2, 3))).abs().max() < 1e-12


class HalfNet(nn.Module):
    """Shift and raw log-scale as known functions of the kept half, written for eq 4-9 below."""

    def forward(self, kept: Tensor, mask: Tensor) -> Tensor:
        total = kept.sum((1, 2, 3), keepdim=True).expand_as(kept)
        return torch.cat([total.sin(), total.cos()], dim=1)


@pytest.mark.parametrize("flip", [False, True])
def test_eq_4_to_8_split_form(flip: bool) -> None:
    """y_1:d = x_1:d; y_d+1:D = x_d+1:D exp(l(x_1:d)) + m(x_1:d); and its inverse."""
    mask, x = partial(channelwise, flip=flip), normal(2, 6, 2, 2)
    coupling = Coupling(mask, HalfNet(), Affine, bound=0.7).double().eval()
    first, second = x.chunk(2, dim=1)
    kept, changed = (second, first) if flip else (first, second)
    total = kept.sum((1, 2, 3), keepdim=True)
    log_scale, shift = coupling.bound * torch.tanh(total.cos()), total.sin()
    new = changed * torch.exp(log_scale) + shift
    z, log_det = coupling(x)
    assert torch.allclose(z, torch.cat([new, kept] if flip else [kept, new], dim=1), atol=1e-12)
    # eq 6-7: exp(sum of l) is the determinant
    assert torch.allclose(log_det, 3 * 2 * 2 * log_scale.sum((1, 2, 3)), atol=1e-12)
    back = (new - shift) * torch.exp(-log_scale)  # eq 8
    expected = torch.cat([back, kept] if flip else [kept, back], dim=1)
    assert torch.allclose(coupling.inverse(z), expected, atol=1e-12)


def test_eq_9_masked_form() -> None:
    """y = b x + (1 - b)(x exp(l(b x)) + m(b x)), with b a product."""
    net = ResNet(2, 4, 4, num_blocks=1, see_mask=True)
    coupling = moved(Chain([Coupling(checkerboard, net, Affine)]), normal(2, 2, 4, 6)).bijections[0]
    x = normal(2, 2, 4, 6)
    b = checkerboard(x.shape, CPU).double()
    m, raw = net(b * x, b.bool()).chunk(2, dim=1)
    log_scale = coupling.bound * raw.tanh()
    z, log_det = coupling(x)
    assert torch.allclose(z, b * x + (1 - b) * (x * log_scale.exp() + m), atol=1e-12)
    assert torch.allclose(log_det, ((1 - b) * log_scale).sum((1, 2, 3)), atol=1e-12)


def test_eq_10_to_13_multi_scale_recursion() -> None:
    """Three checkerboard couplings, squeeze, three channel-wise ones, unsqueeze, factor out, repeat."""
    x = pixels(2, 1, 8, 8)
    flow = moved(image_flow(1, 8, 8, 2), x)
    logit, (*three, squeezed, factored) = flow.bijections[0], flow.bijections[1].bijections
    assert len(three) == 6
    assert [type(layer).__name__ for layer in three] == ["Coupling", "BatchNorm"] * 3
    assert isinstance(squeezed, Squeezed)
    assert isinstance(factored, FactorOut)
    h, total = logit(x)
    for layer in three:
        h, term = layer(h)
        total = total + term
    # 2 x 2 x c -> 1 x 1 x 4c
    small = h.reshape(2, 1, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 4, 4, 4)
    assert len(squeezed.bijection.bijections) == 6
    for layer in squeezed.bijection.bijections:
        small, term = layer(small)
        total = total + term
    upper_left, upper_right, lower_left, lower_right = small.unbind(1)
    z1 = torch.stack([upper_left, lower_right], 1)  # eq 11: half is latent
    h1 = torch.stack([upper_right, lower_left], 1)
    assert len(factored.bijection.bijections) == 8
    for (
        layer
    ) in factored.bijection.bijections:  # eq 12: the last scale, four checkerboard couplings
        h1, term = layer(h1)
        total = total + term
    z, log_det = flow(x)
    assert torch.allclose(log_det, total, atol=1e-9)
    # eq 13: z is all of them, each at its pixels
    for (row, column), part in {
        (0, 0): z1[:, 0],
        (1, 1): z1[:, 1],
        (0, 1): h1[:, 0],
        (1, 0): h1[:, 1],
    }.items():
        assert torch.allclose(z[:, 0, row::2, column::2], part, atol=1e-12)


def test_order_of_latents() -> None:
    """Half of the entries belong to scale 0, a quarter to scale 1, the rest to the last one."""
    levels = [[0, 1, 0, 2], [1, 0, 2, 0], [0, 2, 0, 1], [2, 0, 1, 0]]
    assert latent_levels(4, 4, 3).tolist() == levels
    levels = latent_levels(16, 32, 4)
    assert [(levels == s).double().mean().item() for s in range(4)] == [1 / 2, 1 / 4, 1 / 8, 1 / 8]


@pytest.mark.parametrize("channels", [1, 3])
def test_latent_levels_are_where_the_flow_leaves_them(channels: int) -> None:
    """Couplings are replaced by a count: a FactorOut at depth s leaves level s alone."""

    class Count(BatchNorm):
        def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return x + 1, x.new_zeros(len(x))

    nested = Count(1)
    for _ in range(2):
        nested = Chain([Count(1), FactorOut(nested)])
    z, _ = nested(torch.zeros(1, channels, 8, 8))
    assert torch.equal(z - 1, latent_levels(8, 8, 3).expand_as(z).float())


def test_masks() -> None:
    assert checkerboard((1, 4, 4), CPU)[0, 0].int().tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]] * 2
    assert checkerboard((1, 2, 3), CPU, flip=True)[0, 0].int().tolist() == [[1, 0, 1], [0, 1, 0]]
    assert channelwise((4, 1, 1), CPU).flatten().tolist() == [True, True, False, False]
    assert channelwise((4, 1, 1), CPU, flip=True).flatten().tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("mask", "channels"),
    [(checkerboard, 1), (partial(checkerboard, flip=True), 2), (channelwise, 4)],
)
def test_zero_pattern_of_the_jacobian(mask: object, channels: int) -> None:
    """Section 3.3: a kept entry is itself; a changed one depends on itself and kept entries alone."""
    coupling = Coupling(mask, HalfNet(), Affine).double().eval()
    x = normal(1, channels, 4, 4)
    jacobian = torch.func.jacrev(lambda v: coupling(v)[0])(x).reshape(x.numel(), -1)
    kept = mask(x.shape, CPU).expand_as(x).flatten()
    assert torch.equal(jacobian[kept], torch.eye(x.numel()).double()[kept])
    among_changed = jacobian[~kept][:, ~kept]
    assert torch.equal(among_changed, torch.diag(among_changed.diagonal()))
    assert (jacobian[~kept][:, kept] != 0).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_channelwise_masks_are_not_redundant_with_the_checkerboard(channels: int) -> None:
    """Section 3.6: on the unsqueezed image they split both colors of the checkerboard."""
    mask = channelwise((4 * channels, 2, 2), CPU).expand(1, -1, 2, 2).float()
    on_pixels = torch.nn.functional.pixel_shuffle(mask, 2).bool()
    board = checkerboard((channels, 4, 4), CPU).expand_as(on_pixels)
    for color in (board, ~board):
        assert 0 < (on_pixels & color).sum() < color.sum()


def test_eq_15_and_16_moving_average() -> None:
    """The gradient flows through the batch term only, and nothing stored carries a graph."""
    rho, moments = 0.9, MovingMoments(2, momentum=0.9).double()
    mean, var = torch.zeros(2).double(), torch.ones(2).double()
    for step in range(3):
        x = (normal(4, 2, 3, 3) * (step + 2) + step).requires_grad_()
        batch_mean = x.mean((0, 2, 3))
        batch_var = ((x - batch_mean[:, None, None]) ** 2).mean((0, 2, 3))
        new_mean, new_var = rho * mean + (1 - rho) * batch_mean, rho * var + (1 - rho) * batch_var
        ours_mean, ours_var = moments(x)
        assert torch.allclose(ours_mean, new_mean, atol=1e-12)
        assert torch.allclose(ours_var, new_var, atol=1e-12)
        ours = torch.autograd.grad(ours_mean.sum() + ours_var.sum(), x)[0]
        expected = torch.autograd.grad(new_mean.sum() + new_var.sum(), x)[0]
        assert torch.allclose(ours, expected, atol=1e-12)
        mean, var = new_mean.detach(), new_var.detach()
        assert torch.equal(moments.mean, moments.eval()(x)[0])
        assert torch.allclose(moments.var, var, atol=1e-12)
        assert not moments.var.requires_grad
        moments.train()


def test_batch_norm_uses_the_mixed_moments_in_its_log_det() -> None:
    norm = BatchNorm(1, momentum=0.5).double()
    x = 3 * normal(6, 1, 2, 2) + 1
    mean, var = 0.5 * x.mean(), 0.5 * 1 + 0.5 * x.var(correction=0)
    z, log_det = norm(x)
    assert torch.allclose(z, (x - mean) / (var + 1e-4).sqrt(), atol=1e-12)
    assert (log_det + 4 * 0.5 * math.log(var + 1e-4)).abs().max() < 1e-6


def test_plain_batch_norm_whitens_its_batch() -> None:
    """rho = 0 (section 3.7): what is stored decays by .9 and starts near the identity."""
    norm = BatchNorm(2).double()
    x = 3 * normal(64, 2, 4, 4) + 1
    z, _ = norm(x)
    assert z.mean((0, 2, 3)).abs().max() < 1e-12
    assert (z.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
    assert torch.allclose(norm.moments.mean, 0.1 * x.mean((0, 2, 3)))
    assert torch.allclose(norm.moments.var, 0.9 + 0.1 * x.var((0, 2, 3), correction=0))
    fresh = BatchNorm(2).double().eval()
    assert (fresh(x)[0] - x).abs().max() < 1e-3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_forward_pass_that_is_not_finite_leaves_the_stored_moments(bad: float) -> None:
    """Of the channels that it hit; the pass itself is not finite: the step can be skipped."""
    moments = MovingMoments(2).double()
    x = normal(4, 2, 2, 2)
    x[0, 0, 0, 0] = bad
    mean, _ = moments(x)
    assert not mean[0].isfinite()
    assert (moments.mean[0], moments.var[0]) == (0, 1)
    assert moments.mean[1] != 0
    assert moments.var.isfinite().all()


def test_averaging_gives_the_mean_over_batches() -> None:
    moments = MovingMoments(1).double()
    batches = [normal(4, 1, 2, 2) * k for k in (1, 2, 3)]
    with averaging(moments):
        for x in batches:
            moments(x)
    means, variances = zip(*((x.mean(), x.var(correction=0)) for x in batches), strict=True)
    assert torch.allclose(moments.mean, torch.stack(means).mean(), atol=1e-12)
    assert torch.allclose(moments.var, torch.stack(variances).mean(), atol=1e-12)


def test_weight_norm() -> None:
    conv = WeightNormConv(3, 5, 3, gain=True).double()
    assert torch.allclose(conv.gain.flatten(), torch.full((5,), 3 / math.sqrt(6)).double())
    assert conv.v.abs().max() <= math.sqrt(2 / 3)
    assert conv.v.abs().max() > 0.9 * math.sqrt(2 / 3)
    h = normal(2, 3, 4, 4)
    weight = conv.gain * conv.v / conv.v.square().sum((1, 2, 3), keepdim=True).sqrt()
    expected = torch.nn.functional.conv2d(h, weight, conv.bias, padding=1)
    assert torch.allclose(conv(h), expected, atol=1e-12)
    lengths = WeightNormConv(3, 5, 1)(torch.eye(3)[:, :, None, None]).square().sum((0, 2, 3))
    assert torch.allclose(lengths, torch.ones(5), atol=1e-6)


def test_goldens_of_the_logit() -> None:
    """Section 4.1, at a = .05, u = .5, f = identity, a unit Gaussian."""
    x = torch.tensor([0.5, 127.5, 128.5, 255.5]).double().view(4, 1, 1, 1)
    y = torch.tensor([-2.908035, -0.007031, 0.007031, 2.908035]).double()
    bits = torch.tensor([11.229193, 7.477769, 7.477769, 11.229193]).double()
    assert (Logit()(x)[0].flatten() - y).abs().max() < 1e-6
    assert (Flow(Logit(), StandardNormal()).log_prob(x) / -math.log(2) - bits).abs().max() < 1e-6


class StandardLogistic(StandardNormal):
    def log_prob(self, z: Tensor) -> Tensor:
        return (z - 2 * torch.nn.functional.softplus(z)).flatten(1).sum(1)


def test_golden_of_a_logistic_base() -> None:
    """An identity flow under a standard logistic base: 8 - log2(1 - 2a) bits/dim for every image."""
    x = pixels(4, 3, 5, 5)
    bits = -Flow(Logit(), StandardLogistic()).log_prob(x) / (75 * math.log(2))
    assert (bits - (8 - math.log2(0.9))).abs().max() < 1e-9


def test_density_is_zero_outside_its_support() -> None:
    edge = 256 * 0.05 / 0.9
    x = torch.tensor([-edge - 0.1, -edge + 0.1, 256 + edge - 0.1, 256 + edge + 0.1]).double()
    flow, x = Flow(Logit(), StandardNormal()), x[:, None, None, None]
    assert flow.log_prob(x).isfinite().tolist() == [False, True, True, False]
    assert flow.log_prob(x * torch.nan).isnan().all()


def test_mass_of_a_tiny_image_space() -> None:
    """P(all images) + P(outside) = 1 for a flow of 1x2x1 pixels and 3 levels, by quadrature.

    The support of a pixel is [-w, 3 + w), w = 3a/(1 - 2a): cells [v, v+1) are images, both rims are outside.
    """
    levels, alpha = 3, 0.05
    bijection = image_flow(1, 2, 1, 1)
    bijection.bijections[0] = Logit(alpha=alpha, levels=levels)
    flow = Flow(moved(bijection, pixels(16, 1, 2, 1, levels=levels)), StandardNormal()).eval()
    rim = levels * alpha / (1 - 2 * alpha)
    edges = [-rim, *range(levels + 1), levels + rim]
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(48))
    nodes, weights = (nodes + 1) / 2, weights / 2  # on [0, 1]
    points = torch.cat([a + (b - a) * nodes for a, b in itertools.pairwise(edges)])
    masses = torch.cat([(b - a) * weights for a, b in itertools.pairwise(edges)])
    grid = torch.cartesian_prod(points, points)[:, None, :, None]
    with torch.no_grad():
        density = flow.log_prob(grid).exp() * torch.cartesian_prod(masses, masses).prod(1)
    inside = ((grid >= 0) & (grid < levels)).flatten(1).all(1)
    images, outside = density[inside].sum(), density[~inside].sum()
    assert 0.01 < outside < 0.99
    assert abs(images + outside - 1) < 1e-4


def test_what_the_first_convolution_sees() -> None:
    """Both signs of the normalized input; twice, and with the mask, where half of it is masked."""
    r = torch.tensor([1.5, -0.5]).view(1, 1, 1, 2)
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    assert both_signs(r, mask, see_mask=False).flatten().tolist() == [1.5, 0, 0, 0.5]
    assert both_signs(r, mask, see_mask=True).flatten().tolist() == [3, 0, 0, 1, 1, 0]
