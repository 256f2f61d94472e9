"""Layers of later flows: initialization from data, packed checkerboards, splines, the recipe."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import realnvp
from realnvp.bijections import (
    ActNorm,
    Affine,
    Chain,
    Coupling,
    FactorOut,
    InvertibleLinear,
    RQSpline,
    SinhArcsinh,
    Squeezed,
    channelwise,
    checkerboard,
    data_dependent_init,
)
from realnvp.bijections.multiscale import even_squares, from_squares, odd_squares
from realnvp.bijections.norms import asinh
from realnvp.bijections.splines import END, STEEPEST
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.config.presets import PRESETS
from realnvp.evaluation.latent import compress, kept
from realnvp.flows.build import build, half_coupling
from realnvp.flows.flow import StandardNormal
from realnvp.nets.convnet import ConvNet
from realnvp.nets.resnet import ChannelSplitNet
from realnvp.training.optim import COEFFICIENTS, STEPS, Muon, WeightAverage, orthogonalized, rate
from tests.flows import image_flow, moved, normal, pixels


def test_act_norm_starts_as_standardization_and_the_linear_map_as_whitening() -> None:
    scale = torch.tensor([1.0, 5.0, 0.1, 2.0], dtype=torch.float64)
    x = normal(50, 4, 3, 3) * scale[:, None, None] + 3
    x[:, 1] += 4 * x[:, 0]
    chain = Chain([ActNorm(4), InvertibleLinear(4)]).double().train()
    with data_dependent_init(chain):
        first = chain(x)[0]
        chain(x * 7)  # only the first batch counts
    z = chain(x)[0]
    assert torch.equal(first, z)
    rows = z.transpose(0, 1).flatten(1)
    assert rows.mean(1).abs().max() < 1e-9
    assert (rows @ rows.T / rows.shape[1] - torch.eye(4)).abs().max() < 1e-3  # eps in both


def initial_weight(x: Tensor, seed: int = 0) -> Tensor:
    """The weight of a linear map that was initialized from x."""
    torch.manual_seed(seed)
    linear = InvertibleLinear(x.shape[1]).double()
    with data_dependent_init(linear):
        linear(x)
    return linear.weight.detach()


def test_the_first_channel_is_the_axis_of_the_largest_variance() -> None:
    scale = torch.tensor([0.5, 3.0], dtype=torch.float64)
    assert initial_weight(normal(500, 2) * scale)[0].abs().argmax() == 1


def test_no_axis_is_decided_by_rounding() -> None:
    """Signs, and axes of equal variances, are those of the initial random rotation."""
    torch.manual_seed(0)
    rotation = InvertibleLinear(5).double().weight.detach()
    white = torch.linalg.qr(normal(400, 5) - normal(400, 5).mean(0))[0] * 20  # of covariance I
    assert (initial_weight(white) - rotation).abs().max() < 1e-3
    scale = torch.tensor([2.0, 1.0, 3.0, 2.0, 2.0], dtype=torch.float64)
    spread = white * scale @ torch.linalg.qr(normal(5, 5))[0]
    for x in (white, spread, 1e-5 * spread):
        weight, nearly = initial_weight(x), x * (1 + 1e-9 * normal(400, 5).flip(0))
        assert (weight - initial_weight(nearly)).abs().max() < 1e-5 * weight.abs().max()
    z = spread @ initial_weight(spread).T
    assert (torch.cov(z.T, correction=0) - torch.eye(5)).abs().max() < 1e-3
    assert (initial_weight(spread) - initial_weight(spread, seed=1)).abs().max() > 0.1


def test_the_linear_map_is_float32_under_autocast() -> None:
    linear, x = InvertibleLinear(6), normal(3, 6, 2, 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        z, _ = linear(x)
    assert torch.equal(z, linear(x)[0])


def test_outliers_hardly_enlarge_the_networks_outputs() -> None:
    torch.manual_seed(0)
    net, x = ConvNet(2, 8, 4, num_blocks=1).double(), normal(3, 2, 4, 4)
    nn.init.normal_(net.conv_out.weight)
    near, far = (net(scale * x, torch.ones(1)).abs().max() for scale in (10, 1e7))
    assert near < far < 20 * near


class FullResolution(nn.Module):
    """The network of a masked checkerboard coupling, computed at half the resolution."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        packed = torch.cat([even_squares(x), odd_squares(x)], dim=1)
        shift, raw = self.net(packed, mask).chunk(2, dim=1)
        return torch.cat([from_squares(*half.chunk(2, dim=1)) for half in (shift, raw)], dim=1)


@pytest.mark.parametrize("flip", [False, True])
def test_the_packed_checkerboard_is_the_masked_checkerboard(flip: bool) -> None:
    net = ChannelSplitNet(ConvNet(6, 8, 12, num_blocks=1), flip=flip)
    packed = Squeezed(Coupling(partial(channelwise, flip=flip), net, Affine), by_color=True)
    x = normal(2, 3, 4, 6)
    moved(packed, x)
    mask = partial(checkerboard, flip=not flip)
    masked = Coupling(mask, FullResolution(net), Affine).double()
    masked.bound = packed.bijection.bound
    z, log_det = packed(x)
    assert torch.equal(masked(x)[0], z)
    assert torch.allclose(masked(x)[1], log_det, atol=1e-12)


def test_the_last_coupling_before_factoring_out_is_a_conditional_gaussian_prior() -> None:
    """N(0, I) behind it is N(-m exp(-l), exp(-2 l)) of the factored half given the other half."""
    model, h = PRESETS["digits-modern"].model, normal(3, 8, 2, 2)
    coupling = half_coupling(model, partial(ConvNet, 4, 6, num_blocks=1), 8, flip=True)
    moved(coupling, h)
    factored, rest = h.chunk(2, dim=1)
    raw = coupling.net(h, channelwise(h.shape, h.device, flip=True))
    shift, log_scale = (part[:, :4] for part in raw.chunk(2, dim=1))
    scale = torch.exp(-coupling.bound * log_scale.tanh())
    z, log_det = coupling(h)
    assert torch.equal(z[:, 4:], rest)
    expected = torch.distributions.Normal(-shift * scale, scale).log_prob(factored)
    nats = StandardNormal().log_prob(z[:, :4]) + log_det
    assert torch.allclose(nats, expected.flatten(1).sum(1), atol=1e-9)


def test_compression_keeps_the_coarser_scales() -> None:
    """Resampled latents of the first scale leave what goes on to coarser scales as it was."""
    x = pixels(2, 3, 8, 8)
    flow = moved(image_flow(3, 8, 8, 2, architecture="modern"), x)
    z, keep = flow(x)[0], kept(8, 8, num_scales=2, level=1)
    resampled = compress(z, keep, StandardNormal(), seed=0, indices=[0, 1])
    factor_out = flow.bijections[1].bijections[1]
    assert isinstance(factor_out, FactorOut)
    coarse, expected = (odd_squares(factor_out.inverse(latent)) for latent in (resampled, z))
    assert torch.equal(coarse, expected)
    assert not torch.allclose(flow.inverse(resampled), flow.inverse(z))


@pytest.mark.parametrize(
    ("decay", "couplings"), [(1.0, [3, 3, 3]), (0.5, [3, 1, 1]), (0.7, [3, 2, 1])]
)
def test_couplings_of_further_scales(decay: float, couplings: list[int]) -> None:
    model = ModelConfig(
        "modern",
        num_scales=3,
        width=4,
        growth=1.0,
        num_blocks=0,
        num_couplings=3,
        coupling_decay=decay,
    )
    flow = build(Config("images", ImageData(shape=(1, 8, 8)), model))
    channels = [len(m.weight) for m in flow.modules() if isinstance(m, InvertibleLinear)]
    assert [channels.count(size) for size in (4, 8, 16)] == couplings


def test_modern_presets_halve_to_four_pixels() -> None:
    for name, config in PRESETS.items():
        if name.endswith("-modern") and config.data.shape:
            with torch.device("meta"):
                build(config)
            assert config.model.num_scales == round(math.log2(config.data.shape[-1])) - 2


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [rate(step / 100, rising=(step + 1) / 10, decay=0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == pytest.approx([1.0] * 42)
    assert rates[75] == pytest.approx(0.5)
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rate(1.0, rising=10.1, decay=0.5) == 0
    assert {rate(step / 100, rising=step + 1, decay=0.0) for step in range(100)} == {1.0}


def test_moving_average_of_a_known_sequence_of_weights() -> None:
    layer = nn.Linear(1, 1, bias=False).double()
    average = WeightAverage(layer, 0.75)
    expected = layer.weight.item()
    for step in range(1, 60):
        with torch.no_grad():
            layer.weight.fill_(step)
        average.update(step)
        decay = min(0.75, step / (step + 9))
        expected = decay * expected + (1 - decay) * step
    with average.used():
        assert layer.weight.item() == pytest.approx(expected, abs=1e-12)
    assert layer.weight.item() == 59


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_a_spline_rises_passes_through_its_knots_and_has_no_jump(scale: float) -> None:
    random = torch.Generator().manual_seed(0)
    raw = scale * torch.randn(RQSpline.outputs, dtype=torch.float64, generator=random)
    raw[:2] = 0  # shift and log-scale
    spline = RQSpline.of(raw[None], torch.tensor(1.0))
    x = torch.linspace(-1.2 * END, 1.2 * END, 5001, dtype=torch.float64)
    z, log_slope = spline(x)
    assert (z.diff() > 0).all()
    assert log_slope.isfinite().all()
    assert (spline.inverse(z) - x).abs().max() < 1e-6
    at_knots, slopes = spline(spline.x[0])
    assert (at_knots - spline.y[0]).abs().max() < 1e-9
    assert (slopes.exp() / spline.slopes[0] - 1).abs().max() < 1e-6
    assert spline.slopes.max() <= 1.001 * STEEPEST
    if scale == 0:
        assert (z - x).abs().max() < 1e-12
    if scale == 1:
        left, right = (spline(spline.x[0] + side)[1] for side in (-1e-9, 1e-9))
        assert (left - right).abs().max() < 1e-6


def test_a_spline_of_one_conditional_column_learns_two_modes() -> None:
    """y is c - 1 or c + 1, each with a Gaussian: an affine map leaves log 2 nats and more."""
    random = np.random.default_rng(0)
    c = random.uniform(-1, 1, 3000)
    y = random.choice([-1, 1], 3000) + 0.2 * random.standard_normal(3000) + c
    flow = realnvp.vector_flow(1, context=1, width=16, num_blocks=1)
    realnvp.fit(flow, y[:2000, None], context=c[:2000], max_steps=400, lr=1e-2)
    found = flow.double().log_prob(torch.tensor(y[2000:, None]), context=c[2000:]).mean().item()
    entropy = math.log(2) + 0.5 * math.log(2 * math.pi * math.e) + math.log(0.2)
    assert found > -entropy - 0.1


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e37), (torch.float64, 1e300)])
@pytest.mark.parametrize("tail", [-0.5, 0.0, 0.5])
def test_sinh_arcsinh_far_out_is_finite_and_has_no_density(
    dtype: torch.dtype, most: float, tail: float
) -> None:
    layer = SinhArcsinh(1).to(dtype)
    nn.init.constant_(layer.log_tail, tail)
    far = torch.logspace(0, math.log10(most), 200, dtype=torch.float64)
    x = torch.cat([-far, far]).to(dtype)[:, None].requires_grad_()
    z, log_det = layer.eval()(x)
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    assert layer.inverse(x).isfinite().all()
    numbers = torch.cat([z[:, 0], log_det])
    weights, each = [x, *layer.parameters()], torch.eye(len(numbers), dtype=dtype)
    grads = torch.autograd.grad(numbers, weights, each, retain_graph=True, is_grads_batched=True)
    assert all(grad.isfinite().all() for grad in grads)
    nats = realnvp.Flow(layer, StandardNormal()).log_prob(x)
    assert not nats.isnan().any()
    assert nats[[199, 399]].isneginf().all()


def test_sinh_arcsinh_is_what_torch_computes_where_torch_is_right() -> None:
    x = torch.logspace(-3, 15, 400, dtype=torch.float64)
    assert torch.equal(asinh(x[x < 1e9]), torch.asinh(x[x < 1e9]))
    assert (asinh(-x) + torch.asinh(x)).abs().max() < 1e-14


def newton_schulz(x: torch.Tensor) -> torch.Tensor:
    """As it is written: x <- a x + b (x x') x + c (x x')^2 x."""
    a, b, c = COEFFICIENTS
    x = x / x.norm()
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (9, 9), (1, 5)])
def test_orthogonalized_is_newton_and_schulz(shape: tuple[int, int]) -> None:
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for each, one in zip(orthogonalized(x), x, strict=True):
        # The quotient has 1e-7.
        torch.testing.assert_close(each, newton_schulz(one), rtol=1e-6, atol=1e-6)


def test_of_rank_one_it_is_finite_and_of_that_rank() -> None:
    x = torch.outer(torch.arange(1.0, 7), torch.arange(1.0, 20))
    values = torch.linalg.svdvals(orthogonalized(x))
    assert 0.6 < values[0] < 1.25
    assert values[1] < 1e-2
    assert orthogonalized(torch.zeros(3, 4)).eq(0).all()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_steps_are_those_of_torch(decay: float) -> None:
    """Which computes in bfloat16, 2^-8."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 30), (30, 4), (4, 30)]
    mine = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    torchs = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    how = {"lr": 0.1, "weight_decay": decay}
    optimizers = [Muon(mine, **how), torch.optim.Muon(torchs, **how)]
    for _ in range(5):
        for one, other in zip(mine, torchs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(mine, torchs, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()
