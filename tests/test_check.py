"""The checks pass for trained weights of every architecture, and fail for planted mistakes."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from realnvp.bijections import Coupling, FactorOut, VariationalDequantization, data_dependent_init
from realnvp.bijections.multiscale import odd_squares
from realnvp.config.presets import PRESETS
from realnvp.evaluation.check import check, num_checked
from realnvp.flows.build import build
from realnvp.flows.flow import Flow
from realnvp.moments import averaging, stored_moments


def trained(preset: str, dtype: torch.dtype, images: np.ndarray, **fields: Any) -> Flow:
    """The preset's flow, narrow, after a few steps with a high rate on these images (rows)."""
    config = PRESETS[preset]
    model = replace(config.model, width=2, num_blocks=1, **fields)
    data = replace(config.data, shape=images.shape[1:])
    flow = build(replace(config, model=model, data=data)).to(dtype).train()
    before = [weight.detach().clone() for weight in flow.parameters()]
    # The modern ones move from their start at their own, higher rate.
    lr = 0.02 if config.model.architecture == "paper" else config.train.lr
    optimizer = torch.optim.Adam(flow.parameters(), lr=lr)
    x = torch.from_numpy(images).to(dtype)
    if images.ndim == 4:
        x = x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    with data_dependent_init(flow), torch.no_grad():
        flow.log_prob(x)
    for _ in range(6):
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1e4)
        optimizer.step()
    with averaging(flow), torch.no_grad():
        flow.log_prob(x)
    moved = [not torch.equal(*pair) for pair in zip(before, flow.parameters(), strict=True)]
    assert sum(moved) > len(before) // 2
    return flow.eval()


def photographs(shape: tuple[int, ...], levels: int) -> np.ndarray:
    """Eight images, smooth with some grain: noise alone would leave nothing to learn."""
    random = np.random.default_rng(0)
    coarse = random.random((8, shape[0], shape[1] // 4, shape[2] // 4)).repeat(4, 2).repeat(4, 3)
    return ((0.9 * coarse + 0.1 * random.random((8, *shape))) * (levels - 1)).astype(np.uint8)


def failures(flow: Flow, data: np.ndarray, **how: Any) -> set[str]:
    """The names of the checks that fail."""
    return {entry.name for entry in check(flow, data, **how) if not entry.ok}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("coupling", ["affine", "additive"])
@pytest.mark.parametrize("preset", ["images-modern", "digits-modern"])
def test_learned_noise(preset: str, coupling: str, dtype: torch.dtype) -> None:
    """Also where the noise of each pixel is as far from uniform as can be."""
    images = photographs((3, 16, 16), PRESETS[preset].levels)
    flow = trained(preset, dtype, images, dequantization="learned", coupling=coupling)
    with torch.no_grad():
        for layer in flow.modules():
            if isinstance(layer, VariationalDequantization):
                for parameter in layer.net.parameters():
                    parameter.mul_(30)
    assert failures(flow, images) == set()


# A preset of each architecture, and the shape of its images. As narrow as here, the others are
# equal to one of these but for fewer scales and couplings.
ARCHITECTURES: dict[str, tuple[int, ...]] = {
    "cifar10": (3, 32, 32),
    "imagenet64": (3, 32, 32),
    "digits": (1, 8, 8),
    "images": (1, 16, 12),
    "digits-modern": (1, 8, 8),
    "images-modern": (1, 16, 12),
    "cifar10-modern": (3, 32, 32),
    "table": (3,),
}
LARGE = pytest.param("imagenet64-modern", marks=pytest.mark.slow)


@pytest.mark.parametrize("preset", [*ARCHITECTURES, LARGE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_architecture_is_an_exact_density(preset: str, dtype: torch.dtype) -> None:
    if preset == "table":
        rows = np.random.default_rng(0).standard_normal((50, 3))
        data = rows.astype(str(dtype).split(".")[1]) @ np.array([[1, 2, 0], [0, 3, 1], [0, 0, 9]])
    else:
        shape = ARCHITECTURES.get(preset, (3, 64, 64))
        data = photographs(shape, PRESETS[preset].levels)
    assert failures(trained(preset, dtype, data), data) == set()


@pytest.fixture
def digits() -> tuple[Flow, np.ndarray]:
    images = photographs((1, 8, 8), 17)
    return trained("digits", torch.float32, images, num_scales=2), images


@pytest.mark.parametrize("preset", ["digits", "digits-modern"])
def test_a_wrong_log_det_is_found(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = photographs((1, 8, 8), 17)
    flow = trained(preset, torch.float32, images, num_scales=2)
    assert failures(flow, images) == set()
    right = Coupling.forward

    def coupling(self: Coupling, x: torch.Tensor, context: Any = None) -> Any:
        z, log_det = right(self, x, context)
        return z, 1.01 * log_det

    def factor_out(self: FactorOut, x: torch.Tensor, context: Any = None) -> Any:
        return x, self.bijection(odd_squares(x), context)[1] * 1.01

    for kind, forward in ((Coupling, coupling), (FactorOut, factor_out)):
        with monkeypatch.context() as patch:
            patch.setattr(kind, "forward", forward)
            assert any("log-det" in name for name in failures(flow, images))


def test_a_wrong_inverse_is_found(
    digits: tuple[Flow, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Coupling.forward

    def forward(self: Coupling, x: torch.Tensor, context: Any = None) -> Any:
        z, log_det = right(self, x, context)
        return z + 1e-2, log_det

    monkeypatch.setattr(Coupling, "forward", forward)
    assert "decode(encode(x))" in failures(*digits)


@pytest.fixture(scope="module")
def few() -> tuple[Flow, np.ndarray, np.ndarray]:
    """A flow, its training images, and 30 others. Only read them."""
    random = np.random.default_rng(1)
    smooth = random.permutation(np.concatenate([photographs((3, 16, 16), 256)] * 8))
    brightness = random.uniform(0.05, 1, (64, 1, 1, 1))
    images = (smooth * brightness + random.integers(0, 9, smooth.shape)).clip(0, 255)
    images = images.astype(np.uint8)
    return trained("photos", torch.float32, images), images[:-30], images[-30:]


@pytest.mark.parametrize("count", [1, 30])
def test_few_images_fail_no_sound_flow_and_wrong_moments_fail(
    few: tuple[Flow, np.ndarray, np.ndarray], count: int
) -> None:
    """Few images may stray from the moments, training images, of which there are more, may not."""
    flow, training, test = copy.deepcopy(few[0]), *few[1:]
    for first in range(0, 30, max(count, 5)):
        assert failures(flow, test[first : first + count]) == set()
    name = "stored moments against a batch's own"
    sound = {entry.name: entry for entry in check(flow, test[:count], training=training)}
    assert all(entry.ok for entry in sound.values())
    assert (sound[name].value < 0.01, sound[name].bound) == (True, 0.2)
    for moments, _, var in stored_moments(flow):
        moments.var = 2 * var
    assert failures(flow, test[:count]) == failures(flow, test[:count], training=training) == {name}


def test_fewer_large_images_are_checked() -> None:
    def count(preset: str, *shape: int) -> int:
        config = PRESETS[preset]
        return num_checked(replace(config, data=replace(config.data, shape=shape)))

    counts = {8: 64, 64: 64, 128: 16, 256: 4, 512: 1, 8192: 1}
    assert {side: count("images", 3, side, side) for side in counts} == counts
    assert count("table", 500) == 1024
