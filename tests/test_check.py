"""The mathematics holds for trained weights of every family of presets, in float32 and float64."""

import dataclasses

import numpy as np
import pytest
import torch

from realnvp.bijections import AffineCoupling
from realnvp.check import check
from realnvp.config import PRESETS
from realnvp.flow import Flow
from realnvp.models import build
from realnvp.moments import averaging


def trained(preset: str, dtype: torch.dtype, images: np.ndarray) -> Flow:
    """The preset's flow, narrow, after a few steps with a high rate on these images."""
    config = PRESETS[preset]
    model = dataclasses.replace(config.model, width=2, num_blocks=1)
    data = dataclasses.replace(config.data, shape=config.data.shape or (1, 16, 12))
    flow = build(dataclasses.replace(config, model=model, data=data)).to(dtype).train()
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
    x = torch.from_numpy(images).to(dtype) + 0.5
    for _ in range(6):
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1e4)
        optimizer.step()
    with averaging(flow), torch.no_grad():
        flow.log_prob(x)
    return flow.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("preset", ["cifar10", "imagenet32", "imagenet64", "celeba", "lsun-tower", "photos", "digits", "images"])
def test_every_family_of_presets_is_the_density_that_it_claims_to_be(preset: str, dtype: torch.dtype) -> None:
    shape, levels = PRESETS[preset].data.shape or (1, 16, 12), PRESETS[preset].data.levels
    # Smooth images: noise alone would leave nothing to learn.
    coarse = np.random.default_rng(0).random((8, shape[0], shape[1] // 4, shape[2] // 4))
    images = (coarse.repeat(4, 2).repeat(4, 3) * (levels - 1)).astype(np.uint8)
    flow = trained(preset, dtype, images)
    failed = [entry for entry in check(flow, images) if not entry.ok]
    assert failed == []
    assert max(m.bound.abs().item() for m in flow.modules() if isinstance(m, AffineCoupling) and m.bound != 1) > 1e-3  # it moved


def test_check_tells_a_wrong_log_det_and_a_wrong_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 17, (8, 1, 8, 8), dtype=np.uint8)
    flow = trained("digits", torch.float32, images)
    assert all(entry.ok for entry in check(flow, images) if "moments" not in entry.name)
    right = AffineCoupling.forward
    with monkeypatch.context() as patch:
        patch.setattr(AffineCoupling, "forward", lambda self, x: (right(self, x)[0], 1.01 * right(self, x)[1]))
        assert {entry.name[:7] for entry in check(flow, images) if not entry.ok} == {"log-det"}
    with monkeypatch.context() as patch:
        patch.setattr(AffineCoupling, "forward", lambda self, x: (right(self, x)[0] + 1e-2, right(self, x)[1]))
        assert any("decode" in entry.name for entry in check(flow, images) if not entry.ok)
