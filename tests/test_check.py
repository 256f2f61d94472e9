"""The mathematics holds for trained weights of every architecture of the presets, in float32 and
float64.
"""

import copy
import dataclasses
import weakref

import numpy as np
import pytest
import torch

from realnvp.bijections import (
    AffineCoupling,
    Dequantisation,
    FactorOut,
    InvertibleLinear,
    data_dependent_init,
)
from realnvp.bijections.multiscale import odd_squares
from realnvp.config import PRESETS
from realnvp.evaluation.check import _layers, _log_det_error, check, how_many
from realnvp.flows.build import build
from realnvp.flows.flow import Flow
from realnvp.moments import averaging, stored_moments

# So many couplings that latents of 20 sigma leave all that float64 can tell, so soon after the
# start.
VERY_DEEP = ("cifar10-modern", "imagenet64-modern")


def trained(preset: str, dtype: torch.dtype, images: np.ndarray, **fields: object) -> Flow:
    """The preset's flow, narrow, after a few steps with a high rate on these images (rows)."""
    config = PRESETS[preset]
    model = dataclasses.replace(config.model, width=2, num_blocks=1, **fields)  # type: ignore[arg-type]
    data = dataclasses.replace(config.data, shape=images.shape[1:])
    flow = build(dataclasses.replace(config, model=model, data=data)).to(dtype).train()
    before = [weight.detach().clone() for weight in flow.parameters()]
    # The modern ones move from their start at their own, higher rate.
    optimizer = torch.optim.Adam(
        flow.parameters(), lr=0.02 if config.model.architecture == "paper" else config.train.lr
    )
    x = torch.from_numpy(images).to(dtype)
    if config.data.levels:
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
    assert (
        sum(not torch.equal(*pair) for pair in zip(before, flow.parameters(), strict=True))
        > len(before) // 2
    )  # it moved
    return flow.eval()


def photographs(shape: tuple[int, ...], levels: int) -> np.ndarray:
    """Eight images, smooth with some grain, as photographs are: noise alone would leave nothing to
    learn.
    """
    random = np.random.default_rng(0)
    coarse = random.random((8, shape[0], shape[1] // 4, shape[2] // 4)).repeat(4, 2).repeat(4, 3)
    return ((0.9 * coarse + 0.1 * random.random((8, *shape))) * (levels - 1)).astype(np.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("coupling", "noise"),
    [
        ("affine", "variational"),
        ("additive", "variational"),
        ("affine", "autoregressive"),
        ("affine", "oblique"),
    ],
)
@pytest.mark.parametrize("preset", ["images-modern", "digits-modern"])
def test_so_is_one_with_learned_noise(
    preset: str, coupling: str, noise: str, dtype: torch.dtype
) -> None:
    """Also where the noise of each pixel is as far from uniform as can be."""
    levels = PRESETS[preset].data.levels or 256
    images = photographs((3, 16, 16), levels)
    flow = trained(preset, dtype, images, dequantization=noise, coupling=coupling)
    with torch.no_grad():
        for layer in flow.modules():
            if isinstance(layer, Dequantisation):
                for parameter in layer.net.parameters():
                    parameter.mul_(30)
    assert [entry for entry in check(flow, images) if not entry.ok] == []


# A preset of each architecture and the shape of its images: as narrow as here, the others are equal
# to one of these, or
# have other numbers of scales and couplings, fewer than imagenet64 (5) and imagenet64-modern (64).
ARCHITECTURES: dict[str, tuple[int, ...]] = {
    "cifar10": (3, 32, 32),
    "imagenet64": (3, 32, 32),
    "digits": (1, 8, 8),
    "images": (1, 16, 12),
    "digits-modern": (1, 8, 8),
    "images-modern": (1, 16, 12),
    "cifar10-modern": (3, 32, 32),
    "imagenet64-modern": (3, 64, 64),
    "table": (3,),
}
BOTH = [
    pytest.param(
        preset,
        dtype,
        marks=[pytest.mark.slow] * (preset == "imagenet64-modern"),
        id=f"{preset}-{str(dtype)[6:]}",
    )
    for preset in ARCHITECTURES
    for dtype in (torch.float32, torch.float64)
]


@pytest.mark.parametrize(("preset", "dtype"), BOTH)
def test_every_architecture_is_the_density_that_it_claims_to_be(
    preset: str, dtype: torch.dtype
) -> None:
    levels = PRESETS[preset].data.levels
    if levels is None:
        rows = np.random.default_rng(0).standard_normal((50, 3))
        images = rows.astype(str(dtype).split(".")[1]) @ np.array([[1, 2, 0], [0, 3, 1], [0, 0, 9]])
    else:
        images = photographs(ARCHITECTURES[preset], levels)
    flow = trained(preset, dtype, images)
    failed = [entry for entry in check(flow, images) if not entry.ok]
    if preset in VERY_DEEP:
        failed = [entry for entry in failed if "far out" not in entry.name]
    assert failed == []


def test_check_tells_a_wrong_log_det_and_a_wrong_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 17, (8, 1, 8, 8), dtype=np.uint8)
    flow = trained("digits", torch.float32, images)
    assert all(entry.ok for entry in check(flow, images) if "moments" not in entry.name)
    right = AffineCoupling.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            AffineCoupling, "forward", lambda self, x: (right(self, x)[0], 1.01 * right(self, x)[1])
        )
        assert {entry.name[:7] for entry in check(flow, images) if not entry.ok} == {"log-det"}
    with monkeypatch.context() as patch:
        patch.setattr(
            AffineCoupling, "forward", lambda self, x: (right(self, x)[0] + 1e-2, right(self, x)[1])
        )
        assert any("decode" in entry.name for entry in check(flow, images) if not entry.ok)


def test_check_tells_a_mixing_that_is_nearly_singular() -> None:
    images = np.random.default_rng(0).integers(0, 17, (8, 1, 8, 8), dtype=np.uint8)
    flow = trained("digits-modern", torch.float32, images)
    mixing = next(module for module in flow.modules() if isinstance(module, InvertibleLinear))
    with torch.no_grad():
        mixing.weight[0] = mixing.weight[1] * (1 + 1e-6)
    assert "condition number of the mixings" in {
        entry.name for entry in check(flow, images) if not entry.ok
    }


@pytest.fixture(scope="module")
def few() -> tuple[Flow, np.ndarray, np.ndarray]:
    """A flow, its training images, and 30 others. Only read them."""
    random = np.random.default_rng(1)
    smooth = random.permutation(np.concatenate([photographs((3, 16, 16), 256)] * 8))
    brightness = random.uniform(0.05, 1, (64, 1, 1, 1))
    images = (
        (smooth * brightness + random.integers(0, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
    )
    return trained("photos", torch.float32, images), images[:-30], images[-30:]


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_few_images_alone_fail_no_sound_flow(
    few: tuple[Flow, np.ndarray, np.ndarray], count: int
) -> None:
    """So few images are allowed to stray from the moments."""
    flow, _, test = few
    for first in range(0, 30, max(count, 5)):
        entries = check(flow, test[first : first + count])
        assert [entry for entry in entries if not entry.ok] == []


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_few_images_fail_no_sound_flow_and_wrong_moments_fail_all_the_same(
    few: tuple[Flow, np.ndarray, np.ndarray], count: int
) -> None:
    """The moments are compared on training images, of which there are more."""
    flow, training, test = copy.deepcopy(few[0]), *few[1:]
    name = "stored moments against a batch's own"
    sound = {entry.name: entry for entry in check(flow, test[:count], training=training)}
    assert all(entry.ok for entry in sound.values())
    assert (sound[name].value < 0.01, sound[name].bound) == (True, 0.2)
    for moments, _, var in stored_moments(flow):
        moments.var = 2 * var
    for more in ({"training": training}, {}):
        assert {entry.name for entry in check(flow, test[:count], **more) if not entry.ok} == {name}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("preset", "side", "count"),
    [
        *((name, 64, 64) for name in PRESETS if name.startswith(("imagenet64", "images"))),
        *(
            ("images", side, count)
            for side, count in ((8, 64), (128, 64), (256, 16), (512, 4), (8192, 1))
        ),
        ("digits", 64, 64),
    ],
)
def test_the_larger_the_images_the_fewer_are_checked(preset: str, side: int, count: int) -> None:
    config = PRESETS[preset]
    assert (
        how_many(
            dataclasses.replace(
                config, data=dataclasses.replace(config.data, shape=(3, side, side))
            )
        )
        == count
    )


def test_of_a_table_a_thousand_rows_are_checked() -> None:
    config = PRESETS["table"]
    assert (
        how_many(dataclasses.replace(config, data=dataclasses.replace(config.data, shape=(500,))))
        == 1024
    )


def test_no_layers_input_is_kept_while_layers_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came some layers before is gone, but for what the chains around it, one in the other,
    hold themselves.
    """
    images = photographs((1, 8, 8), 17)
    flow = trained("digits", torch.float32, images)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    right = AffineCoupling.forward

    def forward(self: AffineCoupling, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal most
        most = max(most, sum(seen() is not None for seen in alive))
        alive.append(weakref.ref(x))
        return right(self, x)

    monkeypatch.setattr(AffineCoupling, "forward", forward)
    with torch.no_grad():
        assert len(_layers(flow, torch.from_numpy(images) + 0.5)) > 2 * len(alive) > 15
    assert most <= 3


@pytest.mark.parametrize("preset", ["digits", "digits-modern"])
def test_where_the_jacobian_is_too_large_each_layer_has_its_own(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = trained(preset, torch.float32, photographs((1, 8, 8), 17), num_scales=2)
    x = torch.from_numpy(photographs((1, 8, 8), 17)) + 0.5
    assert _log_det_error(flow, x, most=3) < 1e-12
    right = AffineCoupling.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            AffineCoupling, "forward", lambda self, x: (right(self, x)[0], 1.01 * right(self, x)[1])
        )
        assert _log_det_error(flow, x, most=3) > 1e-6
    with monkeypatch.context() as patch:
        patch.setattr(
            FactorOut, "forward", lambda self, x: (x, self.bijection(odd_squares(x))[1] * 1.01)
        )
        assert _log_det_error(flow, x, most=3) > 1e-6
