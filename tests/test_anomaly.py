"""realnvp.anomaly: anomalies and their regions, at the false-positive rate that was asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

import realnvp
from realnvp import build, load_flow, save_flow
from realnvp.anomaly import AnomalyDetector
from realnvp.anomaly.detector import image_score, map_distance, p_values, rounded
from realnvp.anomaly.statistics import (
    EPSILON,
    PATCH,
    RIDGE,
    SHRINKAGE,
    SMOOTHING,
    NormalModel,
    TailFunction,
    most_anomalous_region,
    patch_statistics,
    smooth,
)
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.data.prepared import find_data
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, evaluating
from realnvp.io.files import DamagedError
from tests.flows import shaken

SIDE = 32


def small_flow() -> Flow:
    torch.manual_seed(0)
    model = ModelConfig("modern", num_scales=2, width=8, num_couplings=1)
    data = ImageData("images", shape=(1, SIDE, SIDE))
    return build(Config("images-modern", data, model)).eval()


@pytest.fixture(scope="module")
def flow() -> Flow:
    """Untrained: N(0, 1) at every pixel of uniform noise."""
    return small_flow()


def noise(count: int, seed: int, side: int = SIDE) -> np.ndarray:
    """(count, 1, side, side), gray levels around the middle."""
    levels = np.random.default_rng(seed).normal(128, 20, (count, 1, side, side))
    return levels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector(flow: Flow) -> AnomalyDetector:
    return AnomalyDetector(flow, fpr=0.05).fit(noise(80, 0))


def with_patch(images: np.ndarray, value: int | None) -> np.ndarray:
    """8x12 pixels of each image flat, or of 2.5 times the contrast."""
    images = images.copy()
    part = images[..., 8:16, 12:24]
    part[:] = value if value is not None else (2.5 * (part.astype(float) - 128) + 128).clip(0, 255)
    return images


@pytest.mark.parametrize("value", [128, None], ids=["too smooth", "too rough"])
def test_the_test_is_two_sided(detector: AnomalyDetector, value: int | None) -> None:
    anomalies = with_patch(noise(6, 1), value)
    assert (detector.predict(anomalies) == -1).all()
    assert detector.score_samples(anomalies).max() < detector.score_samples(noise(6, 1)).min()
    assert (detector.p_values(anomalies) == 1 / 61).all()


def test_the_map_and_its_region_show_where(detector: AnomalyDetector) -> None:
    images = noise(4, 1, side=96)
    images[..., 40:52, 36:56] = 128
    maps = detector.maps(images)
    assert (maps.shape, maps.dtype) == ((4, 96, 96), np.float32)
    assert ((maps > 0) & (maps <= 1)).all()
    assert maps[:, 44:48, 42:50].max() < 0.01
    assert np.median(np.delete(maps, slice(16, 76), axis=1)) > 0.2
    for fractions in maps:
        left, top, right, bottom = most_anomalous_region(fractions)
        assert 24 <= left <= 40 < 52 <= right <= 68
        assert 28 <= top <= 44 < 48 <= bottom <= 64


def test_a_region_joins_patches_that_touch() -> None:
    fractions = np.ones((24, 32))
    fractions[4:8, 8:12] = fractions[8:12, 12:16] = 1e-4  # by a corner
    fractions[16:20, 24:28] = 0.9e-3
    assert most_anomalous_region(fractions) == (8, 4, 16, 12)


def test_fractions_of_new_normal_patches_are_uniform(flow: Flow) -> None:
    """Within the errors of some 1,000 patches, which lie apart in the images that calibrate."""
    maps = AnomalyDetector(flow).fit(noise(350, 0)).maps(noise(200, 5))
    for fraction, error in ((0.01, 0.006), (0.1, 0.04), (0.5, 0.06), (0.9, 0.06)):
        assert np.mean(maps <= fraction) == pytest.approx(fraction, abs=error)


def test_the_false_positive_rate_holds(flow: Flow) -> None:
    """Over 20 splits: 400 verdicts within the binomial 99 % interval."""
    positives = 0
    for split in range(20):
        fitted = AnomalyDetector(flow, fpr=0.1, seed=split).fit(noise(52, 100 + split))
        positives += int((fitted.predict(noise(20, 200 + split)) == -1).sum())
    low, high = binom.ppf([0.005, 0.995], 400, 0.1)
    assert low <= positives <= high


def test_the_rate_holds_for_repeated_images_alone_and_in_one_call() -> None:
    """A frame that repeats ties with itself, though its score differs by 1e-6 with the batch."""
    flow = load_flow("digits-8")
    images = np.asarray(find_data(flow.config.data, seed=0).train[:])[:260].transpose(0, 3, 1, 2)
    detector = AnomalyDetector(flow).fit(images)
    scores = detector.score_samples(images)
    candidates = images[scores.argsort()[:20]]  # whose rate would break without rounding
    gaps = [detector.score_samples(each[None])[0] for each in candidates] - np.sort(scores)[:20]
    frame = candidates[np.argmax(gaps < 0)]
    frames = np.concatenate([images, np.repeat(frame[None], 40, axis=0)])
    order = np.random.default_rng(0).permutation(len(frames))
    normal, new = frames[order[:200]], frames[order[200:]]
    detector = AnomalyDetector(flow, fpr=0.1).fit(normal)
    together = detector.p_values(new)
    alone = np.concatenate([detector.p_values(image[None]) for image in new])
    limit = binom.ppf(0.995, len(new), 0.1) / len(new)
    assert np.mean(together <= 0.1) <= limit
    assert np.mean(alone <= 0.1) <= limit
    assert np.array_equal(together, alone)


def test_p_values_are_conformal() -> None:
    normal = [-1.0, -2.0, -2.0, -3.0]
    assert p_values([0, -1, -2, -2.5, -3, -4, np.nan], normal).tolist() == [
        1.0, 1.0, 0.8, 0.4, 0.4, 0.2, 0.2,
    ]  # fmt: skip


@given(st.floats(1e-3, 1e6))
def test_scores_that_differ_by_an_ulp_are_ties(value: float) -> None:
    coarse = rounded(value)
    assert abs(coarse - value) <= 2.0**-12 * value
    assert rounded(np.nextafter(coarse, np.inf)) == rounded(np.nextafter(coarse, 0)) == coarse


def test_statistics_are_of_the_pass_that_gives_log_prob(flow: Flow) -> None:
    x = torch.from_numpy(noise(2, 3)).double() + 0.5
    with evaluating(flow):
        log_prob, found = patch_statistics(flow, x, (SIDE, SIDE))
        z, nats = flow.encode(x), flow.pixel_log_prob(x)
        assert torch.allclose(log_prob, flow.log_prob(x), rtol=1e-12)
        of_a_part, _ = patch_statistics(flow, x, (SIDE - 3, SIDE - 5))
        assert torch.allclose(of_a_part, nats[:, :-3, :-5].sum((1, 2)), rtol=1e-12)
    assert found.shape == (2, 3, SIDE // PATCH, SIDE // PATCH)
    squares = z.float().square()
    energy, log_squares = (
        torch.nn.functional.avg_pool2d(each, PATCH) for each in (squares, (squares + EPSILON).log())
    )
    expected = smooth(torch.cat([energy, log_squares, (energy + EPSILON).log()], 1), SMOOTHING)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_smoothed_map_is_a_gaussian_average() -> None:
    flat, spot = torch.ones(1, 2, 6, 9), torch.zeros(1, 1, 31, 31)
    assert torch.allclose(smooth(flat, 8.0), flat)
    spot[..., 15, 15] = 1
    found = smooth(spot, 2.0 * PATCH)[0, 0]
    assert found.sum() == pytest.approx(1, rel=1e-5)
    assert found[15, 17] / found[15, 15] == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_images_are_given_their_likeliest_class() -> None:
    config = small_flow().config
    data = replace(config.data, classes=True, class_names=("a", "b", "c"))
    mixture = shaken(
        build(replace(config, data=data, model=replace(config.model, context_dim=3))), 0.05
    )
    assert isinstance(mixture.condition, Classes)
    mixture.condition.count(torch.tensor([0, 1, 1, 2]))
    x = torch.from_numpy(noise(6, 3)).double() + 0.5
    x = x / torch.tensor([1, 2, 4, 8, 16, 32]).view(6, 1, 1, 1)
    with evaluating(mixture):
        log_prob, found = patch_statistics(mixture, x, (SIDE, SIDE))
        likeliest = mixture.class_log_probs(x).argmax(1)
        assert torch.allclose(log_prob, mixture.mixture_log_prob(x), rtol=1e-9)
        for i, c in enumerate(likeliest):
            alone = patch_statistics(mixture.condition_on(c), x[[i]], (SIDE, SIDE))[1]
            assert torch.allclose(found[[i]], alone, atol=1e-5)
    assert len(likeliest.unique()) > 1


def test_images_of_any_size_and_batch(detector: AnomalyDetector) -> None:
    """Mirror images fill what scales do not divide; a batch changes nothing."""
    several = [noise(1, 1)[0], noise(1, 2, side=37)[0], noise(1, 3, side=6)[0], noise(1, 4)[0]]
    found = [*detector.results(several)]
    assert [each.shape for _, each in found] == [(32, 32), (37, 37), (6, 6), (32, 32)]
    for image, (score, _) in zip(several, found, strict=True):
        assert detector.score_samples([image])[0] == pytest.approx(score.score, rel=1e-6)
    assert isinstance(detector.maps(several), list)


def test_each_patch_has_its_own_moments_where_images_have_one_size() -> None:
    torch.manual_seed(1)
    places = torch.arange(4.0).view(1, 2, 2).double()
    parts = [places + 0.1 * torch.randn(50, 3, 2, 2, dtype=torch.float64) for _ in range(4)]
    found = NormalModel.fit(parts)
    own = torch.cat(parts).mean(0)
    pull = SHRINKAGE / (200 + SHRINKAGE)
    overall = own.mean((1, 2), keepdim=True)
    assert torch.allclose(found.mean, own + pull * (overall - own))
    assert found.deviation.max() < 0.6
    several = NormalModel.fit([*parts, places.new_zeros(1, 3, 1, 1)])
    assert torch.allclose(several.mean.squeeze(), torch.cat(parts).sum((0, 2, 3)) / 801)
    assert found.distance(torch.full((1, 3, 5, 5), torch.nan)).isinf().all()


def test_normal_statistics_in_an_unusual_combination_are_distant() -> None:
    """Two statistics that are always alike: each at 1 deviation, but with opposite signs."""
    torch.manual_seed(1)
    first = torch.randn(400, 1, 2, 2, dtype=torch.float64)
    normal = torch.cat([first, first + 0.01 * torch.randn_like(first)], dim=1)
    found = NormalModel.fit(normal.split(100))
    alike, apart, far = (
        found.distance(torch.tensor(values).double().view(1, 2, 1, 1).expand(1, 2, 2, 2))
        for values in ([1.0, 1.0], [1.0, -1.0], [-10.0, -10.0])
    )
    assert alike.max() < 1
    assert apart.mean() == pytest.approx(RIDGE**-0.5, rel=0.1)
    assert (far > 6).all()


def test_correlations_are_of_deviations_from_each_patchs_mean() -> None:
    torch.manual_seed(2)
    places = 100 * torch.randn(1, 1, 3, 3, dtype=torch.float64)
    normal = places + torch.randn(5000, 2, 3, 3, dtype=torch.float64)
    assert torch.allclose(NormalModel.fit([normal]).whitening, torch.eye(2).double(), atol=0.2)


def test_an_image_scores_as_its_most_anomalous_square() -> None:
    """Patches together are more anomalous than apart; three of a hundred are 2x2."""
    together, apart = torch.ones(2, 10, 10)
    together[4:6, 7:9] = 5
    apart[::5, ::5] = 5
    assert image_score(torch.stack([together, apart])).tolist() == [-5, -2]
    assert image_score(torch.ones(1, 1, 1000)).tolist() == [-1]


def test_a_map_is_finite_around_an_infinite_distance() -> None:
    distance = torch.ones(1, 20, 20)
    distance[0, 5, 6] = torch.inf
    found = map_distance(distance)[0]
    assert found.isfinite().all()
    assert found.argmax() == 5 * 20 + 6
    assert found[5, 6] > found[5, 8] > found[5, 10] > found[15, 15]


def test_beyond_the_largest_normal_distance_the_order_stays() -> None:
    tail = TailFunction.fit(torch.linspace(1, 10, 1000))
    found = tail.fraction_beyond(torch.tensor([0.5, 5.5, 10.0, 20.0, 40.0]))
    assert found[0] == pytest.approx(1, abs=2e-3)
    assert found[1] == pytest.approx(0.5, abs=2e-3)
    assert found[2] == pytest.approx(1 / 1001, rel=1e-3)
    assert found[2] > found[3] > found[4] > 0
    for normal in ([1.0, 2.0, torch.inf, torch.inf], [torch.inf], [1.0]):
        of_few = TailFunction.fit(torch.tensor(normal))
        found = of_few.fraction_beyond(torch.tensor([1.0, 2.0, torch.inf]))
        assert found.isfinite().all()
        assert found[0] >= found[1] >= found[2]


def test_saved_with_the_flow(detector: AnomalyDetector, tmp_path: Path) -> None:
    path, new = tmp_path / "detector.safetensors", with_patch(noise(3, 7), 128)
    detector.save(path)
    again = AnomalyDetector.load(path)
    assert np.array_equal(again.score_samples(new), detector.score_samples(new))
    assert np.array_equal(again.maps(new), detector.maps(new))
    assert np.array_equal(again.p_values(new), detector.p_values(new))
    assert again.fpr == 0.05
    assert load_flow(path).config == detector.flow.config
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="detector"):
        AnomalyDetector.load(path)
    save_flow(detector.flow, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="plain"):
        AnomalyDetector.load(tmp_path / "plain.safetensors")


def test_what_is_refused(flow: Flow, detector: AnomalyDetector) -> None:
    gray = noise(1, 0)
    for images in (gray / 255, np.repeat(gray, 3, 1), gray.astype(np.int64), gray[0]):
        with pytest.raises(ValueError, match="images"):
            detector.predict(images)
    with pytest.raises(ValueError, match="flow"):
        AnomalyDetector(realnvp.vector_flow(3))
    with pytest.raises(ValueError, match="fpr"):
        AnomalyDetector(flow, fpr=0)
    with pytest.raises(ValueError, match="normal"):
        AnomalyDetector(flow).fit(gray)
