"""`Flow.pixel_log_prob`: the contribution of each pixel to log_prob; large images in strips."""

import copy

import pytest
import torch
from torch import Tensor

import realnvp
from realnvp.bijections import Chain, Logit
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.flows.build import build
from realnvp.flows.copies import tiled
from realnvp.flows.flow import Flow, StandardNormal
from tests.flows import image_flow, moved, normal, pixels, shaken


def sums_to_log_prob(flow: realnvp.Flow, x: Tensor) -> Tensor:
    with torch.no_grad():
        nats, total = flow.pixel_log_prob(x), flow.log_prob(x)
    assert ((nats.flatten(1).sum(1) - total) / total).abs().max() < 1e-12
    return nats


@pytest.mark.parametrize("model", [{}, {"architecture": "modern"}], ids=["paper", "modern"])
def test_pixels_of_whole_images_of_any_size(model: dict[str, str]) -> None:
    x = pixels(2, 3, 8, 24)
    bijection = moved(image_flow(3, 8, 8, 2, **model), pixels(2, 3, 8, 8))
    flow = realnvp.Flow(bijection, StandardNormal()).eval()
    assert sums_to_log_prob(flow, x).shape == (2, 8, 24)
    fast = realnvp.fast(flow, dtype=torch.float64)
    assert (fast.pixel_log_prob(x) - flow.pixel_log_prob(x)).abs().max() < 1e-6


def test_columns_of_rows() -> None:
    flow = realnvp.vector_flow(3, width=8).double().eval()
    assert sums_to_log_prob(flow, normal(5, 3)).shape == (5, 3)


def test_a_pixel_without_density() -> None:
    flow = realnvp.Flow(Chain([Logit()]), StandardNormal()).eval()
    x = pixels(1, 1, 4, 4)
    x[0, 0, 1, 2] = 999
    places = flow.pixel_log_prob(x).isneginf().nonzero().tolist()
    assert places == [[0, 1, 2]]
    assert flow.log_prob(x).isneginf()


MODELS = {
    "paper": ModelConfig(num_scales=3, width=4, num_blocks=2),
    "modern": ModelConfig("modern", num_scales=2, width=4, num_blocks=2, num_couplings=2),
    "learned noise": ModelConfig(
        "modern", num_scales=2, width=4, num_blocks=1, num_couplings=2, dequantization="learned"
    ),
    "additive": ModelConfig(
        "modern", "additive", num_scales=2, width=4, num_blocks=1, num_couplings=2
    ),
}


def flow_of(name: str) -> Flow:
    return shaken(build(Config(data=ImageData(shape=(3, 8, 8)), model=MODELS[name])))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("memory", [1, 8_000])
def test_strips_give_what_one_pass_gives(name: str, memory: int) -> None:
    flow = flow_of(name).double()
    x = torch.rand(2, 3, 48, 16, dtype=torch.float64) * 256
    with torch.no_grad():
        expected, strips = flow.pixel_log_prob(x), tiled(flow, memory=memory)
        assert torch.allclose(strips.pixel_log_prob(x), expected, rtol=0, atol=1e-9)
        assert torch.allclose(strips.log_prob(x), expected.sum((1, 2)), rtol=1e-12)


def test_a_copy_of_a_tiled_flow_has_weights_of_its_own() -> None:
    flow, x = flow_of("learned noise"), torch.rand(1, 3, 48, 16) * 256
    strips = tiled(flow, memory=8_000)
    copied = copy.deepcopy(strips)
    with torch.no_grad():
        before = flow.pixel_log_prob(x)
        assert torch.equal(copied.pixel_log_prob(x), strips.pixel_log_prob(x))
        for weight in flow.parameters():
            weight += 0.01
        assert torch.allclose(copied.pixel_log_prob(x), before, rtol=1e-3, atol=1e-3)
        assert torch.allclose(strips.pixel_log_prob(x), flow.pixel_log_prob(x), rtol=1e-3)
        assert not torch.allclose(flow.pixel_log_prob(x), before, rtol=1e-2)
        assert copied.decode(copied.encode(x)).sub(x).abs().max() < 0.1
