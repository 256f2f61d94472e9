"""The models of the paper: sizes, start, presets."""

import dataclasses

import pytest
import torch
from torch import Tensor

import realnvp
from realnvp.bijections import AdditiveCoupling, AffineCoupling, BatchNorm
from realnvp.config import PRESETS, Config, ImageData, ModelConfig
from realnvp.flows.build import build
from realnvp.flows.paper import l2_penalty
from realnvp.moments import MovingMoments
from realnvp.nets.layers import WeightNormConv
from realnvp.nets.resnet import ChannelSplitNet
from realnvp.flows.build import count_parameters


# The authors' sizes: parameters in millions, couplings.
@pytest.mark.parametrize(
    ("preset", "millions", "couplings"),
    [
        ("cifar10", 19.61, 10),
        ("imagenet32", 46.22, 22),
        ("imagenet64", 96.36, 28),
        ("celeba", 96.36, 28),
    ],
)
def test_sizes_are_the_authors(preset: str, millions: float, couplings: int) -> None:
    assert round(count_parameters(PRESETS[preset]) / 1e6, 2) == millions
    with torch.device("meta"):
        assert (
            sum(isinstance(module, AffineCoupling) for module in build(preset).modules())
            == couplings
        )


def small(**model: object) -> Config:
    return Config(
        data=ImageData(shape=(3, 8, 8)),
        model=ModelConfig(**{"num_scales": 2, "width": 4, "num_blocks": 2} | model),
    )


def test_checkerboard_couplings_start_with_log_scale_zero_and_can_leave_it() -> None:
    flow = build(small()).train()
    flow.log_prob(torch.rand(8, 3, 8, 8) * 256).mean().backward()
    for module in flow.modules():
        if isinstance(module, AffineCoupling):
            assert module.bound.item() == (1 if isinstance(module.net, ChannelSplitNet) else 0)
            assert module.bound.grad is not None
            assert module.bound.grad.abs() > 0


def test_gains_and_biases_are_where_the_authors_have_them() -> None:
    net = next(
        module for module in build(small()).modules() if isinstance(module, AffineCoupling)
    ).net
    convs = {
        name: module for name, module in net.named_modules() if isinstance(module, WeightNormConv)
    }
    with_gain = {name for name, conv in convs.items() if conv.gain is not None}
    assert with_gain == {
        "skip_in",
        "skips.0",
        "skips.1",
        "blocks.0.conv2",
        "blocks.1.conv2",
        "conv_out",
    }
    assert {name for name, conv in convs.items() if conv.bias is None} == {
        "blocks.0.conv1",
        "blocks.1.conv1",
    }
    assert convs["skip_in"].gain.mean().item() == pytest.approx(0.408, abs=1e-3)
    assert convs["blocks.0.conv2"].gain.mean().item() == pytest.approx(1.225, abs=1e-3)
    assert convs["conv_in"].v.shape == (4, 2 * 3 + 1, 3, 3)


def test_every_coupling_is_followed_by_batch_norm_with_the_configured_momentum() -> None:
    layers = build(small(momentum=0.9)).bijection.bijections[1].bijections
    assert [type(layer) for layer in layers[:6]] == [AffineCoupling, BatchNorm] * 3
    assert {
        module.momentum
        for module in build(small(momentum=0.9)).modules()
        if isinstance(module, MovingMoments)
    } == {0.9}


def test_l2_counts_gains_and_checkerboard_bounds() -> None:
    flow = build(small())
    gains = sum(
        p.square().sum().item() for name, p in flow.named_parameters() if name.endswith(".gain")
    )
    assert l2_penalty(flow).item() == pytest.approx(gains)
    for module in flow.modules():
        if isinstance(module, AffineCoupling):
            module.bound.data.fill_(3)
    assert l2_penalty(flow).item() == pytest.approx(
        gains + 7 * 9, rel=1e-5
    )  # 3 + 4 checkerboard couplings, no channel-wise one


def test_no_weight_and_no_buffer_has_a_spatial_size() -> None:
    small_flow, large = (
        build(small()),
        build(dataclasses.replace(small(), data=ImageData(shape=(3, 64, 32)))),
    )
    shapes = {name: tensor.shape for name, tensor in small_flow.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in large.state_dict().items()}
    large.load_state_dict(small_flow.state_dict())
    x = torch.rand(2, 3, 64, 32) * 256
    assert torch.equal(small_flow.eval().log_prob(x), large.eval().log_prob(x))


def test_an_untrained_flow_is_tame() -> None:
    """Moments that started at variance 0 would scale by 316 a layer."""
    z = build("photos").eval().encode(torch.rand(2, 3, 32, 32) * 256)
    assert z.abs().max() < 1e3


def test_same_seed_same_weights() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = build(small()).state_dict(), build(small()).state_dict()
    other = build(dataclasses.replace(small(), seed=1)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_nice_by_one_field() -> None:
    flow = build(small(coupling="additive"))
    assert sum(isinstance(module, AdditiveCoupling) for module in flow.modules()) == 10
    x = torch.rand(2, 3, 8, 8) * 256

    def without_logit(v: Tensor) -> Tensor:
        log_det: Tensor = flow.eval().bijection.bijections[1](v)[1]
        return log_det

    assert without_logit(x).abs().max() < 192 * 10 * 1e-4  # batch norm's eps alone


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        ((3, 32, 32), 4),
        ((3, 64, 64), 5),
        ((1, 8, 8), 2),
        ((1, 28, 28), 3),
        ((3, 7, 9), 1),
        ((1, 4, 4), 1),
        ((3, 12, 20), 2),
    ],
)
def test_number_of_scales_from_the_size(shape: tuple[int, int, int], scales: int) -> None:
    assert realnvp.config.default_num_scales(shape) == scales


def test_unknown_preset_and_missing_shape() -> None:
    with pytest.raises(ValueError, match=r"'photo'.*did you mean 'photos'"):
        realnvp.build("photo")
    with pytest.raises(ValueError, match=r"data\.shape"):
        realnvp.build("images")
    with pytest.raises(ValueError, match=r"30x32.*divisible by 8"):
        build(Config(data=ImageData(shape=(3, 30, 32)), model=ModelConfig(num_scales=4)))


