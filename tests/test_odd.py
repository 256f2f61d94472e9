"""realnvp.anomaly: where an image is odd, and false alarms at the rate that was asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from realnvp import build, load_flow, save_flow
from realnvp.anomaly import AnomalyDetector
from realnvp.anomaly.detector import oddness_around, oddness_of_images
from realnvp.anomaly.normal import (
    KAPPA,
    SHRINK,
    TailFunction,
    least_rate,
    p_values,
    threshold,
    usual,
)
from realnvp.anomaly.statistics import CELL, LEAST, WIDTH, box, smoothed, statistics
from realnvp.config import PRESETS, Config, ImageData, ModelConfig
from realnvp.export import export_detector
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, evaluating
from tests.test_given import faces, moved

SIDE = 32


@pytest.fixture(scope="module")
def flow() -> Flow:
    """Untrained but for its start from noise: N(0, 1) at every pixel of uniform noise."""
    torch.manual_seed(0)
    config = Config(
        "images-modern",
        ImageData("images", shape=(1, SIDE, SIDE)),
        ModelConfig("modern", num_scales=2, width=8, num_couplings=1),
    )
    return build(config).eval()


def noise(count: int, seed: int, side: int = SIDE) -> np.ndarray:
    """(count, 1, side, side), grey levels around the middle."""
    levels = np.random.default_rng(seed).normal(128, 20, (count, 1, side, side))
    return levels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector(flow: Flow) -> AnomalyDetector:
    return AnomalyDetector(flow, fpr=0.05).fit(noise(80, 0))


def with_patch(images: np.ndarray, value: int | None) -> np.ndarray:
    """8x12 pixels of each image flat, or as rough again."""
    images = images.copy()
    part = images[..., 8:16, 12:24]
    part[:] = value if value is not None else (2.5 * (part.astype(float) - 128) + 128).clip(0, 255)
    return images


@pytest.mark.parametrize("value", [128, None], ids=["too smooth", "too rough"])
def test_what_is_too_likely_is_odd_as_what_is_too_unlikely(
    detector: AnomalyDetector, value: int | None
) -> None:
    odd = with_patch(noise(6, 1), value)
    assert (detector.predict(odd) == -1).all()
    assert detector.score_samples(odd).max() < detector.score_samples(noise(6, 1)).min()
    assert (detector.p_values(odd) == least_rate(60)).all()


def test_the_map_and_its_box_are_where_the_oddness_is(detector: AnomalyDetector) -> None:
    images = noise(4, 1, side=96)
    images[..., 40:52, 36:56] = 128
    maps = detector.maps(images)
    assert maps.shape == (4, 96, 96)
    assert maps.dtype == np.float32
    assert ((maps > 0) & (maps <= 1)).all()
    assert maps[:, 44:48, 42:50].max() < 0.01
    assert np.median(np.delete(maps, slice(16, 76), axis=1)) > 0.2
    for shares in maps:
        left, top, right, bottom = box(shares)
        assert 24 <= left <= 40 < 52 <= right <= 68
        assert 28 <= top <= 44 < 48 <= bottom <= 64


def test_shares_of_new_normal_places_are_uniform(flow: Flow) -> None:
    """As nearly as some 1,000 places can tell, which lie apart in the images that calibrate."""
    maps = AnomalyDetector(flow).fit(noise(350, 0)).maps(noise(200, 5))
    for share, error in ((0.01, 0.006), (0.1, 0.04), (0.5, 0.06), (0.9, 0.06)):
        assert np.mean(maps <= share) == pytest.approx(share, abs=error)


def test_false_alarms_come_at_the_rate(flow: Flow) -> None:
    """Over 20 detectors, each calibrated anew: 400 verdicts, within the binomial 99.9 % interval."""
    alarms = 0
    for split in range(20):
        fitted = AnomalyDetector(flow, fpr=0.1, seed=split).fit(noise(52, 100 + split))
        alarms += int((fitted.predict(noise(20, 200 + split)) == -1).sum())
    assert 20 <= alarms <= 61


def test_p_values_are_conformal() -> None:
    normal = [1.0, 2.0, 2.0, 3.0]
    assert p_values([0, 1, 2, 2.5, 3, 4, np.nan], normal).tolist() == [
        1.0, 1.0, 0.8, 0.4, 0.4, 0.2, 0.2,
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for count, rate in ((99, 0.01), (19, 0.05), (10, 0.05), (33, 0.3)):
        held = rng.normal(size=count)
        new = np.concatenate([held, rng.normal(size=500)])
        assert np.array_equal(p_values(new, held) <= rate, new > threshold(held, rate))
    assert threshold(range(98), 0.01) == np.inf
    assert least_rate(99) == 0.01


def test_statistics_are_of_the_pass_that_gives_log_prob(flow: Flow) -> None:
    x = torch.from_numpy(noise(2, 3)).double() + 0.5
    with evaluating(flow):
        log_prob, found = statistics(flow, x, (SIDE, SIDE))
        z, nats = flow.encode(x), flow.pixel_log_prob(x)
        assert torch.equal(log_prob, flow.log_prob(x))
        of_a_part, _ = statistics(flow, x, (SIDE - 3, SIDE - 5))
        assert torch.allclose(of_a_part, nats[:, :-3, :-5].sum((1, 2)), rtol=1e-12)
    assert found.shape == (2, 3, SIDE // CELL, SIDE // CELL)
    squares = z.float().square()
    energy, log_squares = (
        torch.nn.functional.avg_pool2d(each, CELL) for each in (squares, (squares + LEAST).log())
    )
    expected = smoothed(torch.cat([energy, log_squares, (energy + LEAST).log()], 1), WIDTH)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_smoothed_map_is_the_mean_around_each_place() -> None:
    flat, spot = torch.ones(1, 2, 6, 9), torch.zeros(1, 1, 31, 31)
    assert torch.allclose(smoothed(flat, 8.0), flat)
    spot[..., 15, 15] = 1
    found = smoothed(spot, 2.0 * CELL)[0, 0]
    assert found.sum() == pytest.approx(1, rel=1e-5)
    assert found[15, 17] / found[15, 15] == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_a_flow_given_classes_sees_each_image_given_its_likeliest_class() -> None:
    mixture = moved(faces()).eval()
    assert isinstance(mixture.condition, Classes)
    mixture.condition.count(torch.tensor([0, 1, 1, 2]))
    x = torch.from_numpy(noise(6, 3)).double() + 0.5
    x = x / torch.tensor([1, 2, 4, 8, 16, 32]).view(6, 1, 1, 1)
    with evaluating(mixture):
        log_prob, found = statistics(mixture, x, (SIDE, SIDE))
        likeliest = mixture.class_log_probs(x).argmax(1)
        assert torch.allclose(log_prob, mixture.mixture_log_prob(x), rtol=1e-9)
        for i, c in enumerate(likeliest):
            alone = statistics(mixture.condition_on(c), x[[i]], (SIDE, SIDE))[1]
            assert torch.allclose(found[[i]], alone, atol=1e-5)
    assert len(likeliest.unique()) > 1
    detector = AnomalyDetector(mixture).fit(noise(20, 0))
    assert detector.predict(noise(2, 1)).tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"Detector\(flow.given\(c\)\)"):
        export_detector(detector, Path("never.onnx"))


def test_images_of_any_size_and_batch(detector: AnomalyDetector) -> None:
    """A mirrored continuation stands for what scales do not divide; a batch changes nothing."""
    several = [noise(1, 1)[0], noise(1, 2, side=37)[0], noise(1, 3, side=6)[0], noise(1, 4)[0]]
    found = [*detector.findings(several)]
    assert [finding.map.shape for finding in found] == [(32, 32), (37, 37), (6, 6), (32, 32)]
    for image, finding in zip(several, found, strict=True):
        (alone,) = detector.findings([image])
        assert alone.score == pytest.approx(finding.score, rel=1e-6)
    assert isinstance(detector.maps(several), list)


def test_each_place_has_its_own_usual_where_images_have_one_size() -> None:
    torch.manual_seed(1)
    places = torch.arange(4.0).view(1, 2, 2).double()
    parts = [places + 0.1 * torch.randn(50, 3, 2, 2, dtype=torch.float64) for _ in range(4)]
    found = usual(parts)
    own = torch.cat(parts).mean(0)
    pull = KAPPA / (200 + KAPPA)
    overall = own.mean((1, 2), keepdim=True)
    assert torch.allclose(found.mean, own + pull * (overall - own))
    assert found.deviation.max() < 0.6
    assert torch.allclose(
        usual([*parts, places.new_zeros(1, 3, 1, 1)]).mean.squeeze(),
        (torch.cat(parts).sum((0, 2, 3)) / 801),
    )
    assert found.oddness(torch.full((1, 3, 5, 5), torch.nan)).isinf().all()


def test_what_is_usual_alone_is_odd_together() -> None:
    """Two statistics that are always alike: each at 1 deviation, but not the same one."""
    torch.manual_seed(1)
    first = torch.randn(400, 1, 2, 2, dtype=torch.float64)
    normal = torch.cat([first, first + 0.01 * torch.randn_like(first)], dim=1)
    found = usual(normal.split(100))
    alike, apart, far = (
        found.oddness(torch.tensor(values).double().view(1, 2, 1, 1).expand(1, 2, 2, 2))
        for values in ([1.0, 1.0], [1.0, -1.0], [-10.0, -10.0])
    )
    assert alike.max() < 1
    assert apart.mean() == pytest.approx(SHRINK**-0.5, rel=0.1)
    assert (far > 6).all()


def test_correlations_are_of_what_is_left_about_the_mean_of_each_place() -> None:
    torch.manual_seed(2)
    places = 100 * torch.randn(1, 1, 3, 3, dtype=torch.float64)
    normal = places + torch.randn(5000, 2, 3, 3, dtype=torch.float64)
    assert torch.allclose(usual([normal]).whitening, torch.eye(2).double(), atol=0.2)


def test_an_image_is_as_odd_as_its_oddest_square() -> None:
    """As many odd places together are odder than apart; three of a hundred are 2x2."""
    together, apart = torch.ones(2, 10, 10)
    together[4:6, 7:9] = 5
    apart[::5, ::5] = 5
    assert oddness_of_images(torch.stack([together, apart])).tolist() == [5, 2]
    wide = torch.ones(1, 1, 1000)
    assert oddness_of_images(wide).tolist() == [1]


def test_a_map_is_odd_around_what_is_odd() -> None:
    oddness = torch.ones(1, 20, 20)
    oddness[0, 5, 6] = torch.inf
    found = oddness_around(oddness)[0]
    assert found.isfinite().all()
    assert found.argmax() == 5 * 20 + 6
    assert found[5, 6] > found[5, 8] > found[5, 10] > found[15, 15]


def test_beyond_the_oddest_normal_place_the_order_stays() -> None:
    shares = TailFunction.of_places(torch.linspace(1, 10, 1000))
    found = shares.among_normal(torch.tensor([0.5, 5.5, 10.0, 20.0, 40.0]))
    assert found[0] == pytest.approx(1, abs=2e-3)
    assert found[1] == pytest.approx(0.5, abs=2e-3)
    assert found[2] == pytest.approx(1 / 1001, rel=1e-3)
    assert found[2] > found[3] > found[4] > 0


def test_places_of_infinite_oddness_have_a_share() -> None:
    for normal in ([1.0, 2.0, torch.inf, torch.inf], [torch.inf], [1.0]):
        found = TailFunction.of_places(torch.tensor(normal)).among_normal(
            torch.tensor([1.0, 2.0, torch.inf])
        )
        assert found.isfinite().all()
        assert found[0] >= found[1] >= found[2]


def test_what_is_usual_follows_the_statistics_to_their_device() -> None:
    known = usual([torch.randn(5, 8, 2, 2, generator=torch.Generator().manual_seed(0))])
    for side in (2, 3):
        assert known.oddness(torch.zeros(4, 8, side, side, device="meta")).shape == (4, side, side)


def test_saved_with_the_flow(detector: AnomalyDetector, tmp_path: Path) -> None:
    detector.save(tmp_path / "detector.safetensors")
    again = AnomalyDetector.load(tmp_path / "detector.safetensors")
    new = with_patch(noise(3, 7), 128)
    assert np.array_equal(again.score_samples(new), detector.score_samples(new))
    assert np.array_equal(again.maps(new), detector.maps(new))
    assert again.fpr == 0.05
    assert load_flow(tmp_path / "detector.safetensors").config == detector.flow.config
    save_flow(detector.flow, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="plain"):
        AnomalyDetector.load(tmp_path / "plain.safetensors")


def test_as_an_onnx_file(detector: AnomalyDetector, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    export_detector(detector, tmp_path / "odd.onnx")
    session = runtime.InferenceSession(tmp_path / "odd.onnx", providers=["CPUExecutionProvider"])
    images = np.concatenate([noise(2, 1), with_patch(noise(3, 2), 128)])
    score, odd, oddness = session.run(None, {"x": images.astype(np.float32) + np.float32(0.5)})
    assert oddness.shape == (5, SIDE // CELL, SIDE // CELL)
    assert odd[2:].all()
    assert (odd == (score < detector.threshold)).all()
    # Noise of half a level differs, so scores do, a little.
    assert score == pytest.approx(detector.score_samples(images), rel=0.1)
    chances = detector.p_values(noise(200, 9))
    below = detector.score_samples(noise(200, 9)) < detector.threshold
    assert (below == (chances <= detector.fpr)).all()


def test_what_makes_no_sense_is_refused(flow: Flow, detector: AnomalyDetector) -> None:
    preset = PRESETS["table"]
    table = build(replace(preset, data=replace(preset.data, shape=(3,))))
    for attempt, words in (
        (lambda: AnomalyDetector(flow, fpr=0), "false_alarms: must be between 0 and 1"),
        (lambda: AnomalyDetector(flow, noise_draws=0), "noise_draws: must be at least 1"),
        (lambda: AnomalyDetector(table), "must be of images"),
        (lambda: AnomalyDetector(flow).fit(noise(1, 0)), "normal: at least 2 images"),
        (lambda: AnomalyDetector(flow).predict(noise(1, 0)), r"call fit\(normal\) first"),
        (lambda: detector.predict(noise(1, 0) / 255), "images: expected whole numbers"),
        (lambda: detector.predict(np.repeat(noise(1, 0), 3, 1)), "images: .* trained on 1$"),
        (lambda: detector.predict(np.zeros((1, 1, 0, 8), np.uint8)), "images: expected whole"),
        (lambda: detector.predict(None), "images: expected an array or a list .* got NoneType"),
        (
            lambda: AnomalyDetector(flow).fit(iter(noise(9, 0))),
            "normal: expected an array or a list",
        ),
        (
            lambda: AnomalyDetector(flow, noise_draws=1.5),
            "noise_draws: must be a whole number, got 1.5",
        ),
        (lambda: AnomalyDetector(flow, fpr="1"), "false_alarms: must be a number, got '1'"),
        (lambda: AnomalyDetector(flow, seed=True), "seed: must be a whole number, got True"),
        (lambda: AnomalyDetector("digits-8"), "flow: expected a Flow, .* got str"),
    ):
        with pytest.raises(ValueError, match=words):
            attempt()
