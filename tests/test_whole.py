"""Large pictures scored whole: strips give what one pass gives, whatever the sizes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flows import pixels
from numpy.typing import NDArray
from PIL import Image

from realnvp import Flow, build
from realnvp.config import Config, ImageData, ModelConfig
from realnvp.evaluation.likelihood import log_probs
from realnvp.evaluation.score import continued, noisy, open_images, picture_map, score
from realnvp.flows.tiled import tiled
from realnvp.progress import Report

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
        dequantization="variational",
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


def picture(height: int, width: int, levels: int = 256) -> NDArray[np.unsignedinteger]:
    kind = np.uint8 if levels == 256 else np.uint16
    return RNG.integers(0, levels, (height, width, 3), dtype=kind)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("memory", [1, 8_000])
def test_strips_give_what_one_pass_gives(name: str, memory: int) -> None:
    flow = flow_of(name).double()
    x = pixels(2, 3, 48, 16)
    told: list[tuple[int, int]] = []
    with torch.no_grad():
        expected = flow.pixel_log_prob(x)
        with tiled(flow, x.shape[2:], memory=memory, report=lambda *done: told.append(done)):
            found = flow.pixel_log_prob(x)
        assert torch.allclose(found, expected, rtol=0, atol=1e-9)
        assert torch.equal(flow.pixel_log_prob(x), expected)  # all is as before
        again: list[tuple[int, int]] = []
        with tiled(flow, x.shape[2:], memory=memory, report=lambda *done: again.append(done)):
            assert torch.allclose(flow.log_prob(x), expected.sum((1, 2)), rtol=1e-12)
    assert again == told
    assert [done for done, _ in told] == [*range(1, told[0][1] + 1)]
    assert len(told) > 12


@pytest.mark.parametrize("name", ["paper", "learned noise"])
def test_the_map_of_a_picture_sums_to_its_log_prob(name: str) -> None:
    """Of sizes that the scales divide; the noise is the noise of `score`."""
    import zlib

    flow, x = flow_of(name), picture(16, 24)
    whole = picture_map(flow, x, seed=3, noise_draws=2)
    first = x.transpose(2, 0, 1)[None]
    index = zlib.crc32(np.ascontiguousarray(first).tobytes())
    expected = log_probs(flow, first, seed=3, noise_draws=2, indices=[index])
    assert whole.shape == (16, 24)
    assert whole.sum().item() == pytest.approx(expected.item(), rel=1e-6)


def test_other_sizes_are_continued_by_their_mirror_image() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert continued(x, 4)[0, 0].tolist() == [
        [0, 1, 2, 2],
        [3, 4, 5, 5],
        [3, 4, 5, 5],
        [0, 1, 2, 2],
    ]
    assert continued(torch.arange(3.0).reshape(1, 1, 1, 3), 8)[0, 0, 0].tolist() == [
        *[0, 1, 2, 2, 1, 0, 0, 1]
    ]
    flow, image = flow_of("modern"), picture(21, 13)
    nats = picture_map(flow, image)
    assert nats.shape == (21, 13)
    assert nats.isfinite().all()
    with torch.no_grad():
        whole = flow.pixel_log_prob(continued(noisy(flow, image, 0, 0), flow.divisor))
    assert whole.shape == (1, 24, 16)
    assert torch.allclose(nats, whole[0, :21, :13], rtol=1e-6)


def test_float32_and_16_bits_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of 12 million pixels are kept in float32: less than 1e-3 bits/dim."""
    for levels in (256, 65536):
        flow, image = flow_of("modern", levels), picture(32, 32, levels)
        exact = picture_map(flow, image)
        monkeypatch.setattr("realnvp.evaluation.score.MOST_IN_FLOAT64", 0)
        rounded = picture_map(flow, image)
        monkeypatch.undo()
        assert abs(exact - rounded).mean().item() / (3 * math.log(2)) < 1e-4


def test_pictures_of_other_kinds_are_refused() -> None:
    flow = flow_of("modern")
    for image, words in [
        (picture(8, 8)[..., :1], "--color-mode rgb"),
        (picture(8, 8, 65536), "--bit-depth 8"),
    ]:
        with pytest.raises(ValueError, match=words):
            picture_map(flow, image)
    for wrong in (picture(8, 8)[0], torch.zeros(8, 8, 3, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"picture: expected an array \(H, W, C\)"):
            picture_map(flow, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise_draws: must be at least 1"):
        picture_map(flow, picture(8, 8), noise_draws=0)
    unwritable = picture(8, 8)[:, :1]
    unwritable.setflags(write=False)
    assert picture_map(flow, unwritable).isfinite().all()  # no warning of torch's


def test_large_pictures_are_read_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 at once would take more memory than the flow; each says how far it is."""
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file in files:
        Image.fromarray(picture(24, 16)).save(file)
    flow = flow_of("modern")
    together = open_images(flow, files)
    monkeypatch.setattr("realnvp.evaluation.score.NUMBERS", 2 * 24 * 16 * 3)
    monkeypatch.setattr("realnvp.evaluation.score.FEW_STRIPS", 3)
    apart = open_images(flow, files)
    assert (together.at_once, apart.at_once, apart[1:].at_once) == (16, 2, 2)
    told: list[tuple[int, str]] = []
    report = Report("image", 4)
    report.changed = lambda: told.append((report.done, report.words))
    found, expected = score(flow, apart, report=report), score(flow, together)
    assert [one.log_prob for one in found] == [one.log_prob for one in expected]
    assert told[:2] == [(0, "strip 1/6"), (0, "strip 2/6")]
    assert told[-2:] == [(3, "strip 6/6"), (4, "")]
