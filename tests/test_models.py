"""The models of the paper: sizes, initialization, presets."""

import dataclasses

import pytest
import torch
from torch import Tensor

import realnvp
from realnvp.bijections import Additive, Coupling
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.config.presets import PRESETS
from realnvp.config.resolve import default_num_scales
from realnvp.flows.build import build, count_parameters, l2_penalty
from realnvp.moments import MovingMoments
from realnvp.nets.layers import WeightNormConv
from realnvp.nets.resnet import ChannelSplitNet


def couplings(flow: realnvp.Flow) -> list[Coupling]:
    return [module for module in flow.modules() if isinstance(module, Coupling)]


def test_sizes_are_the_authors() -> None:
    """Millions of parameters, and couplings."""
    sizes = {"cifar10": (19.61, 10), "imagenet32": (46.22, 22), "imagenet64": (96.36, 28)}
    for preset, (millions, count) in sizes.items():
        assert round(count_parameters(PRESETS[preset]) / 1e6, 2) == millions
        with torch.device("meta"):
            assert len(couplings(build(preset))) == count


def small(**model: object) -> Config:
    return Config(
        data=ImageData(shape=(3, 8, 8)),
        model=ModelConfig(**{"num_scales": 2, "width": 4, "num_blocks": 2} | model),
    )


def test_checkerboard_couplings_start_with_log_scale_zero_and_can_leave_it() -> None:
    flow = build(small()).train()
    flow.log_prob(torch.rand(8, 3, 8, 8) * 256).mean().backward()
    for coupling in couplings(flow):
        assert coupling.bound.item() == (1 if isinstance(coupling.net, ChannelSplitNet) else 0)
        assert coupling.bound.grad.abs() > 0


def test_gains_and_biases_are_where_the_authors_have_them() -> None:
    modules = couplings(build(small()))[0].net.named_modules()
    convs = {name: module for name, module in modules if isinstance(module, WeightNormConv)}
    first, second = [f"blocks.{i}.conv1" for i in (0, 1)], [f"blocks.{i}.conv2" for i in (0, 1)]
    with_gain = {name for name, conv in convs.items() if conv.gain is not None}
    assert with_gain == {"skip_in", "skips.0", "skips.1", *second, "conv_out"}
    assert {name for name, conv in convs.items() if conv.bias is None} == {*first}
    assert convs["skip_in"].gain.mean().item() == pytest.approx(0.408, abs=1e-3)
    assert convs["blocks.0.conv2"].gain.mean().item() == pytest.approx(1.225, abs=1e-3)
    assert convs["conv_in"].v.shape == (4, 2 * 3 + 1, 3, 3)


def test_every_batch_norm_has_the_configured_momentum() -> None:
    flow = build(small(momentum=0.9))
    assert {m.momentum for m in flow.modules() if isinstance(m, MovingMoments)} == {0.9}


def test_l2_counts_gains_and_checkerboard_bounds() -> None:
    flow = build(small())
    gains = sum(p.square().sum().item() for n, p in flow.named_parameters() if n.endswith(".gain"))
    assert l2_penalty(flow).item() == pytest.approx(gains)
    for coupling in couplings(flow):
        coupling.bound.data.fill_(3)
    # Of 3 + 4 checkerboard couplings, and of no channel-wise coupling.
    assert l2_penalty(flow).item() == pytest.approx(gains + 7 * 9, rel=1e-5)


def test_no_weight_and_no_buffer_has_a_spatial_size() -> None:
    flow = build(small()).eval()
    large = build(dataclasses.replace(small(), data=ImageData(shape=(3, 64, 32)))).eval()
    large.load_state_dict(flow.state_dict())
    x = torch.rand(2, 3, 64, 32) * 256
    assert torch.equal(flow.log_prob(x), large.log_prob(x))


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
    flow = build(small(coupling="additive")).eval()
    assert {coupling.transform for coupling in couplings(flow)} == {Additive}
    x: Tensor = torch.rand(2, 3, 8, 8) * 256
    _, log_det = flow.bijection.bijections[1](x)  # behind the logit
    assert log_det.abs().max() < 192 * 10 * 1e-4  # batch norm's eps alone


def test_number_of_scales_from_the_size() -> None:
    scales = {(3, 32, 32): 4, (3, 64, 64): 5, (1, 28, 28): 3, (3, 7, 9): 1, (1, 4, 4): 1}
    assert {shape: default_num_scales(shape) for shape in scales} == scales


def test_a_flow_without_a_shape_or_of_a_size_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match=r"data\.shape"):
        realnvp.build("images")
    with pytest.raises(ValueError, match=r"model\.num_scales"):
        build(Config(data=ImageData(shape=(3, 30, 32)), model=ModelConfig(num_scales=4)))
