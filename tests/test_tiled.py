"""Large images in strips: the same densities as in one pass."""

import numpy as np
import pytest
import torch

from realnvp import Flow, build
from realnvp.config import Config, ImageData, ModelConfig
from realnvp.flows.tiled import tiled

RNG = np.random.default_rng(3)
MODELS = {
    "paper": ModelConfig(num_scales=3, width=4, num_blocks=2),
    "modern": ModelConfig("modern", num_scales=2, width=4, num_blocks=2, num_couplings=2),
    "learned noise": ModelConfig(
        "modern",
        num_scales=2,
        width=4,
        num_blocks=1,
        num_couplings=2,
        dequantization="learned",
    ),
    "additive": ModelConfig(
        "modern", "additive", num_scales=2, width=4, num_blocks=1, num_couplings=2
    ),
}


def flow_of(name: str, levels: int = 256) -> Flow:
    """A flow whose networks say something: those of fresh flows end in zeros."""
    flow = build(Config(data=ImageData(shape=(3, 8, 8), levels=levels), model=MODELS[name]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in flow.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return flow.eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("memory", [1, 8_000])
def test_strips_give_what_one_pass_gives(name: str, memory: int) -> None:
    flow = flow_of(name).double()
    x = torch.rand(2, 3, 48, 16, dtype=torch.float64) * 256
    with torch.no_grad():
        expected, strips = flow.pixel_log_prob(x), tiled(flow, memory=memory)
        assert torch.allclose(strips.pixel_log_prob(x), expected, rtol=0, atol=1e-9)
        assert torch.allclose(strips.log_prob(x), expected.sum((1, 2)), rtol=1e-12)
