"""What the modern presets add: parts that start from data, couplings at half the resolution, the
recipe of training.
"""

import dataclasses
import math
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from flows import image_flow, learned_noise, moved, normal, pixels
from test_training import assert_bit_equal, interrupt_at, step_of_the_loop, with_train
from torch import Tensor, nn

import realnvp.training.loop
import realnvp.training.step
from realnvp.bijections import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Chain,
    Dequantisation,
    FactorOut,
    InvertibleLinear,
    JointDequantisation,
    ObliqueDequantisation,
    Squeezed,
    channelwise,
    checkerboard,
    data_dependent_init,
)
from realnvp.bijections.dequantization import stages
from realnvp.bijections.multiscale import even_squares, from_squares, odd_squares
from realnvp.config import PRESETS, Config, ImageData, ModelConfig, TrainConfig
from realnvp.data import dequantize
from realnvp.evaluation.latent import compress, kept
from realnvp.flows.build import build
from realnvp.flows.flow import StandardNormal
from realnvp.flows.paper import half_coupling
from realnvp.io.checkpoint import TrainState
from realnvp.io.pretrained import load_flow
from realnvp.nets.convnet import ConvNet
from realnvp.nets.resnet import ChannelSplitNet
from realnvp.training.loop import train
from realnvp.training.optim import WeightAverage, rate
from realnvp.training.run import Run
from realnvp.training.session import TrainingStopped


def modern(config: Config, **recipe: object) -> Config:
    """The tiny training with the architecture and the recipe of the modern presets."""
    model = dataclasses.replace(PRESETS["digits-modern"].model, width=8, num_couplings=2)
    recipe = {
        "lr": 2e-3,
        "muon_lr": 0.02,
        "warmup": 3,
        "decay": 0.5,
        "average": 0.9,
        "clip": 1e4,
    } | recipe
    return with_train(dataclasses.replace(config, model=model), **recipe)


def test_act_norm_starts_as_standardisation_and_mixing_as_whitening() -> None:
    x = (
        normal(50, 4, 3, 3) * torch.tensor([1.0, 5.0, 0.1, 2.0], dtype=torch.float64)[:, None, None]
        + 3
    )
    x[:, 1] += 4 * x[:, 0]
    chain = Chain([ActNorm(4), InvertibleLinear(4)]).double().train()
    with data_dependent_init(chain):
        first = chain(x)[0]
    z = chain(x)[0]
    assert torch.equal(first, z)
    rows = z.transpose(0, 1).flatten(1)
    assert rows.mean(1).abs().max() < 1e-9
    assert (rows @ rows.T / rows.shape[1] - torch.eye(4)).abs().max() < 1e-3  # eps in both
    before = {name: weight.clone() for name, weight in chain.named_parameters()}
    with data_dependent_init(chain):
        chain(x)
        chain(x * 7)  # only the first batch counts
    chain(x * 9)
    assert all(
        torch.allclose(weight, before[name], atol=1e-9) for name, weight in chain.named_parameters()
    )


def test_the_largest_axis_is_what_the_first_coupling_keeps() -> None:
    x = normal(500, 2, 2, 2) * torch.tensor([0.5, 3.0], dtype=torch.float64)[:, None, None]
    mixing = InvertibleLinear(2).double()
    with data_dependent_init(mixing):
        mixing(x)
    assert (
        mixing.weight[0].abs().argmax() == 1
    )  # channel 0 of z is the direction of the largest variance


def started(x: Tensor, seed: int = 0) -> Tensor:
    """The weight of a mixing that started from x."""
    torch.manual_seed(seed)
    mixing = InvertibleLinear(x.shape[1]).double()
    with data_dependent_init(mixing):
        mixing(x)
    return mixing.weight.detach()


def test_no_axis_is_decided_by_rounding() -> None:
    """Signs, and axes of equal variances, are those of the random rotation that the weight was."""
    torch.manual_seed(0)
    rotation = InvertibleLinear(5).double().weight.detach()
    white = torch.linalg.qr(normal(400, 5) - normal(400, 5).mean(0))[0] * 20  # of covariance I
    assert (started(white) - rotation).abs().max() < 1e-3
    spread = (
        white
        * torch.tensor([2.0, 1.0, 3.0, 2.0, 2.0], dtype=torch.float64)
        @ torch.linalg.qr(normal(5, 5))[0]
    )
    for x in (white, spread, spread.clone().mul_(1e-5)):
        nearly = x * (1 + 1e-9 * normal(400, 5).flip(0))
        assert (started(x) - started(nearly)).abs().max() < 1e-5 * started(x).abs().max()
    z = spread @ started(spread).T
    assert (torch.cov(z.T, correction=0) - torch.eye(5)).abs().max() < 1e-3
    assert (started(spread) - started(spread, seed=1)).abs().max() > 0.1


def test_mixing_is_not_low_precision_under_autocast() -> None:
    mixing, x = InvertibleLinear(6), normal(3, 6, 2, 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        z, _ = mixing(x)
    assert torch.equal(z, mixing(x)[0])
    assert z.dtype == torch.float32


def test_what_is_far_out_does_not_lead_the_networks_astray() -> None:
    """A million times as far, the network says hardly more: else the next one would be led
    further, and so on.
    """
    torch.manual_seed(0)
    net, x = ConvNet(2, 8, 4, num_blocks=1).double(), normal(3, 2, 4, 4)
    nn.init.normal_(net.conv_out.weight)
    near, far = (net(scale * x, torch.ones(1)).abs().max() for scale in (10, 1e7))
    assert near < far < 20 * near


class Conjugated(nn.Module):
    """A network for a masked checkerboard coupling that computes what another does at half the
    resolution.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        packed = torch.cat([even_squares(x), odd_squares(x)], dim=1)
        shift, raw = self.net(packed, mask).chunk(2, dim=1)
        return torch.cat([from_squares(*half.chunk(2, dim=1)) for half in (shift, raw)], dim=1)


@pytest.mark.parametrize("flip", [False, True])
def test_the_packed_checkerboard_is_the_masked_one(flip: bool) -> None:
    """Squeezed by colour, a channel-wise coupling is a checkerboard coupling: to the last bit the
    same map.
    """
    net = ChannelSplitNet(ConvNet(6, 8, 12, num_blocks=1), flip=flip)
    packed = Squeezed(AffineCoupling(partial(channelwise, flip=flip), net), by_colour=True)
    x = normal(2, 3, 4, 6)
    moved(packed, x)
    masked = AffineCoupling(partial(checkerboard, flip=not flip), Conjugated(net)).double()
    masked.bound = packed.bijection.bound
    z, log_det = packed(x)
    assert torch.equal(masked(x)[0], z)
    assert torch.allclose(masked(x)[1], log_det, atol=1e-12)


def test_the_last_coupling_before_factoring_out_is_a_conditional_gaussian_prior() -> None:
    """N(0, I) after it is N(m, exp(-l)) of the factored part given the rest: what Glow writes as a
    prior.
    """
    model = PRESETS["digits-modern"].model
    net, h = partial(ConvNet, 4, 6, num_blocks=1), normal(3, 8, 2, 2)
    coupling = half_coupling(model, net, 8, flip=True)
    moved(coupling, h)
    factored, rest = h.chunk(2, dim=1)
    shift, raw = (
        part[:, :4]
        for part in coupling.net(h, channelwise(h.shape, h.device, flip=True)).chunk(2, dim=1)
    )
    log_scale = coupling.bound * raw.tanh()
    z, log_det = coupling(h)
    assert torch.equal(z[:, 4:], rest)
    prior = torch.distributions.Normal(-shift * torch.exp(-log_scale), torch.exp(-log_scale))
    expected = prior.log_prob(factored).flatten(1).sum(1)
    assert torch.allclose(StandardNormal().log_prob(z[:, :4]) + log_det, expected, atol=1e-9)


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


def test_compression_resamples_what_was_factored_out_given_what_is_kept() -> None:
    x = pixels(2, 3, 8, 8)
    flow = moved(image_flow(3, 8, 8, 2, architecture="modern"), x)
    z = flow(x)[0]
    keep = kept(8, 8, num_scales=2, level=1)
    assert keep.sum() == 32
    again = compress(z, keep, StandardNormal(), seed=0, indices=[0, 1])
    whole = flow.bijections[1]
    inner = whole.bijections[1]
    assert isinstance(inner, FactorOut)
    back, first = (odd_squares(inner.inverse(latent)) for latent in (again, z))
    assert torch.equal(back, first)  # what goes on to coarser scales is as it was
    assert not torch.allclose(flow.inverse(again), flow.inverse(z))


def test_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [rate(step / 100, rising=(step + 1) / 10, decay=0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == pytest.approx([1.0] * 42)
    assert rates[75] == pytest.approx(0.5)
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rate(1.0, rising=10.1, decay=0.5) == 0
    assert {rate(step / 100, rising=step + 1, decay=0.0) for step in range(100)} == {
        1.0
    }  # the paper's, to the bit


@pytest.mark.parametrize(
    ("growth", "couplings"), [(1.0, [3, 3, 3]), (0.5, [3, 1, 1]), (0.7, [3, 2, 1])]
)
def test_further_scales_have_as_many_couplings_as_they_should(
    growth: float, couplings: list[int]
) -> None:
    model = ModelConfig(
        "modern",
        num_scales=3,
        width=4,
        growth=1.0,
        num_blocks=0,
        num_couplings=3,
        coupling_decay=growth,
    )
    flow = build(Config("images", ImageData(shape=(1, 8, 8)), model))
    mixings = [
        module.weight.shape[0] for module in flow.modules() if isinstance(module, InvertibleLinear)
    ]
    assert [mixings.count(channels) for channels in (4, 8, 16)] == couplings


def test_a_gradient_that_is_far_out_is_not_followed(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, state = TrainConfig(skip_factor=10.0), TrainState(typical_norm=2.0)
    assert not realnvp.training.step._far_out(recipe, state, 20.0)
    assert realnvp.training.step._far_out(recipe, state, 20.1)
    assert not realnvp.training.step._far_out(recipe, TrainState(), 20.1)  # nothing is typical yet
    assert not realnvp.training.step._far_out(TrainConfig(), state, 1e30)

    def without(run: Run, x: Tensor) -> tuple[float, float, int]:
        return (1.0, 1.0, 0) if run.state.step == 5 else step_of_the_loop(run, x)

    config = modern(tiny)
    with monkeypatch.context() as patch:
        patch.setattr(realnvp.training.loop, "train_step", without)
        train(config, tmp_path / "without", device="cpu")
    monkeypatch.setattr(
        realnvp.training.step, "_far_out", lambda recipe, state, norm: state.step == 5
    )
    assert train(config, tmp_path / "skipping", device="cpu").skipped == 1
    assert_bit_equal(tmp_path / "skipping", tmp_path / "without")


def test_weight_average_of_a_known_sequence() -> None:
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


def test_modern_training_stopped_and_resumed_is_bit_equal(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = modern(tiny)
    train(config, tmp_path / "whole", device="cpu")
    interrupt_at(monkeypatch, {0, 5, 9}, signal.SIGTERM)
    for _ in range(3):
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "parts", device="cpu")
    train(config, tmp_path / "parts", device="cpu")
    assert_bit_equal(tmp_path / "parts", tmp_path / "whole")
    flows = [load_flow(tmp_path / name).state_dict() for name in ("parts", "whole")]
    assert all(torch.equal(flows[0][name], flows[1][name]) for name in flows[0])


def test_a_model_holds_the_average_and_a_checkpoint_the_weights(
    tiny: Config, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(modern(tiny, ema_decay=0.5), run, device="cpu")
    from test_training import final_tensors

    saved, model = final_tensors(run), load_flow(run, "last").state_dict()
    assert all(torch.equal(model[name], saved[f"average.{name}"]) for name in model)
    assert not all(torch.equal(model[name], saved[f"flow.{name}"]) for name in model)


def test_a_budget_in_minutes_counts_training_over_all_sittings(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(
        realnvp.training.loop, "clock", lambda: float(next(ticks))
    )  # each step takes one second
    config = modern(tiny, max_minutes=0.1, max_steps=None)
    interrupt_at(monkeypatch, {3}, signal.SIGTERM)
    with pytest.raises(TrainingStopped):
        train(config, tmp_path / "run", device="cpu")
    state = train(config, tmp_path / "run", device="cpu")
    assert state.training_seconds == pytest.approx(6)
    assert state.step in (
        7,
        8,
    )  # a step knows of those before it; the sitting's last second is lost
    assert load_flow(tmp_path / "run", "last")


def test_modern_presets_halve_to_four_pixels() -> None:
    for name, config in PRESETS.items():
        if name.endswith("-modern") and config.data.shape:
            with torch.device("meta"):
                assert build(config).config is not None
            assert config.model.num_scales == round(math.log2(config.data.shape[-1])) - 2


def test_odd_images_are_refused_by_the_field() -> None:
    config = PRESETS["images-modern"]
    with pytest.raises(
        ValueError, match=r"images of 7x7: 1 scale needs .* divisible by 2 \(model.num_scales\)"
    ):
        build(dataclasses.replace(config, data=dataclasses.replace(config.data, shape=(1, 7, 7))))
