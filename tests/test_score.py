"""realnvp score: log-densities of images and rows, anomaly scores, pictures and a page."""

import csv
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from realnvp import Flow, build
from realnvp.cli.main import run
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.evaluation.likelihood import log_probs
from realnvp.evaluation.score import ImageFiles, dequantized, encode, mirror_pad, score_images
from realnvp.flows.flow import evaluating
from tests.command_output import Out, answer, refused
from tests.flows import shaken

LEVELS = 17


def images(folder: Path, count: int, seed: int, *, side: int = 8) -> Path:
    """A folder of pictures like the tiny run's: digits are smooth and dark at the border."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    row, column = np.indices((side, side)) - (side - 1) / 2
    for i in range(count):
        ring = np.exp(-((np.hypot(row, column) - rng.uniform(1, 3)) ** 2))
        pixels = (12 * ring + rng.uniform(0, 4, ring.shape)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return folder


def noise(path: Path, side: int = 8) -> Path:
    rng = np.random.default_rng(9)
    Image.fromarray(rng.integers(0, LEVELS, (side, side), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Normal images, and new ones, of which noise.png is an anomaly."""
    new = images(tmp_path / "new", 5, 3)
    noise(new / "noise.png")
    return images(tmp_path / "good", 40, 0), new


def test_log_densities(capsys: Out, run_dir: Path, folders: tuple[Path, Path]) -> None:
    scores: Any = answer(capsys, "score", run_dir, folders[1])["scores"]
    assert list(scores[0]) == ["path", "log_prob", "bits_per_dim", "rank"]
    assert sorted(score["rank"] for score in scores) == [1, 2, 3, 4, 5, 6]
    least = min(scores, key=lambda score: score["rank"])
    assert least["path"].endswith("noise.png")
    assert least["log_prob"] == min(score["log_prob"] for score in scores)
    assert least["bits_per_dim"] == pytest.approx(-least["log_prob"] / (64 * np.log(2)))
    quick: Any = answer(capsys, "score", run_dir, folders[1], "--fast")["scores"]
    pairs = zip(scores, quick, strict=True)
    assert 0 < max(abs(a["bits_per_dim"] - b["bits_per_dim"]) for a, b in pairs) < 0.05


def test_anomalies_are_ranked_by_their_score(
    capsys: Out, run_dir: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    good, new = folders
    command = ["score", run_dir, new, "--normal", good, "--fpr", "0.04"]
    result: Any = answer(capsys, *command)
    scores = result["scores"]
    assert (result["fpr"], result["calibrating"]) == (0.04, 30)
    assert [score["rank"] for score in scores] == [1, 2, 3, 4, 5, 6]
    values = [score["score"] for score in scores]
    assert values == sorted(values)
    assert scores[0]["path"].endswith("noise.png")
    assert scores[0]["anomalous"]
    assert scores[0]["p_value"] == pytest.approx(1 / 31)
    assert all(score["anomalous"] == (score["p_value"] <= 0.04) for score in scores)
    assert result["anomalous"] == sum(score["anomalous"] for score in scores) < 4
    plain: Any = answer(capsys, "score", run_dir, new)["scores"]
    by_path = {score["path"]: score["log_prob"] for score in plain}
    for score in scores:
        assert score["log_prob"] == pytest.approx(by_path[score["path"]], rel=1e-9)
    assert run([*map(str, command), "--out", str(tmp_path / "s.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert {"path", "log_prob", "bits_per_dim", "score", "p_value", "anomalous"} < rows[0].keys()
    assert [int(side) for side in rows[0]["box"].split()] == scores[0]["box"]


def test_normal_images_are_the_validation_split_unless_named(
    capsys: Out, run_dir: Path, folders: tuple[Path, Path]
) -> None:
    result = answer(capsys, "score", run_dir, folders[1], "--fpr", "0.02")
    assert result["calibrating"] == len(np.load(run_dir / "data/validation.npy")) * 3 // 4


def test_heat_maps_a_picture_and_a_page(
    capsys: Out, run_dir: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    good, new = folders
    (new / "more").mkdir()
    noise(new / "more" / "noise.png", side=13)
    noise(new / "more" / "noise-7.png", side=13)
    page, sheet, maps = (tmp_path / name for name in ("a <b>.html", "sheet.png", "maps"))
    command = ["score", run_dir, new, "--normal", good, "--top", "2", "--report", page]
    answer(capsys, *command, "--picture", sheet, "--heatmaps", maps)
    assert len([*maps.iterdir()]) == 8  # though two are called noise.png
    with Image.open(sheet) as picture:
        assert picture.width > 800
    text = page.read_text()
    assert text.count("<img") == text.count("data:image/png;base64,") == 2
    assert "of 8 anomalous" in text
    assert re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:)\w+:""", text) == []
    assert "<script" not in text


def test_rows(capsys: Out, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("train", 300), ("good", 60), ("new", 20)):
        rows = rng.normal(size=(count, 2))
        if name == "new":
            rows[3] = 50
        text = "\n".join(f"{x},{y}" for x, y in rows)
        (tmp_path / f"{name}.csv").write_text(f"a,b\n{text}\n")
    table = tmp_path / "run"
    small = ["--model.width", "8", "--model.num-couplings", "2", "--train.max-steps", "5"]
    source = ["--data.source", tmp_path / "train.csv", "--run-dir", table, "--device", "cpu"]
    answer(capsys, "train", "table", *source, *small)
    plain: Any = answer(capsys, "score", table, tmp_path / "new.csv")["scores"]
    assert list(plain[0]) == ["path", "log_prob", "row", "rank"]
    assert [score["row"] for score in plain] == [*range(1, 21)]
    for normal in ([], ["--normal", tmp_path / "good.csv"]):
        result: Any = answer(capsys, "score", table, tmp_path / "new.csv", "--fpr", "0.1", *normal)
        first = result["scores"][0]
        assert (first["row"], first["rank"], first["anomalous"]) == (4, 1, True)
        assert first["p_value"] == pytest.approx(1 / (result["calibrating"] + 1))
        assert result["anomalous"] < 8


def test_the_first_bad_file_is_named(capsys: Out, run_dir: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "new", 3, 0)
    (folder / "torn.png").write_bytes((folder / "000.png").read_bytes()[:60])
    assert "torn.png" in refused(capsys, "score", run_dir, folder, unchanged=[folder])
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "color.png")
    line = refused(capsys, "score", run_dir, folder, unchanged=[folder])
    assert "color.png" in line


def test_no_input_is_overwritten(
    capsys: Out, run_dir: Path, tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    path, (good, new) = noise(tmp_path / "a.png"), folders
    assert "--out" in refused(capsys, "score", run_dir, path, "--out", path, unchanged=[tmp_path])
    for folder in folders:
        maps = ["--normal", good, "--heatmaps", folder]
        assert "--heatmaps" in refused(capsys, "score", run_dir, new, *maps, unchanged=[tmp_path])


def test_scored_images_do_not_calibrate(
    capsys: Out, run_dir: Path, folders: tuple[Path, Path]
) -> None:
    good, _ = folders
    assert "--normal" in refused(capsys, "score", run_dir, good, "--normal", good)


def small_flow() -> Flow:
    model = ModelConfig("modern", num_scales=2, width=4, num_blocks=2, num_couplings=2)
    data = ImageData("images", shape=(3, 8, 8))
    return shaken(build(Config(data=data, model=model)))


def pictures(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    rng, paths = np.random.default_rng(3), [folder / f"{i}.png" for i in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return paths


def test_images_of_any_size_are_scored_whole(tmp_path: Path) -> None:
    """The mirror image that completes a size has no part in the score."""
    paths = pictures(tmp_path, (8, 8), (8, 8), (21, 13), (16, 24))
    flow = small_flow()
    files = ImageFiles(flow, paths)
    found = [score.log_prob for score in score_images(flow, files, noise_draws=2, seed=3)]
    for path, log_prob in zip(paths, found, strict=True):
        (alone,) = score_images(flow, ImageFiles(flow, [path]), noise_draws=2, seed=3)
        assert alone.log_prob == pytest.approx(log_prob, rel=1e-6)
    with evaluating(flow):
        x = [dequantized(flow, files[2][None], seed=3, draw=draw) for draw in range(2)]
        nats = torch.stack([flow.pixel_log_prob(each)[:, :21, :13].sum() for each in x]).mean()
    assert x[0].shape == (1, 3, 24, 16)
    assert found[2] == pytest.approx(nats.item(), rel=1e-6)


def test_a_score_is_the_log_prob_of_the_same_noise(tmp_path: Path) -> None:
    flow, (path,) = small_flow(), pictures(tmp_path, (16, 24))
    files = ImageFiles(flow, [path])
    index = zlib.crc32(files[0].tobytes())
    expected = log_probs(flow, files[0][None], seed=3, noise_draws=2, indices=[index])
    (score,) = score_images(flow, files, noise_draws=2, seed=3)
    assert score.log_prob == pytest.approx(expected.item(), rel=1e-9)


def test_large_images_in_float32_change_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, paths = small_flow(), pictures(tmp_path, (32, 32))
    files = ImageFiles(flow, paths)
    (exact,) = score_images(flow, files)
    monkeypatch.setattr("realnvp.evaluation.score.MAX_FLOAT64_SIZE", 0)
    (rounded,) = score_images(flow, files)
    assert exact.bits_per_dim is not None
    assert rounded.bits_per_dim == pytest.approx(exact.bits_per_dim, abs=1e-4)


def test_mirror_padding() -> None:
    first, second = [0, 1, 2, 2], [3, 4, 5, 5]
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert mirror_pad(x, 4)[0, 0].tolist() == [first, second, second, first]
    x = torch.arange(3.0).reshape(1, 1, 1, 3)
    assert mirror_pad(x, 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]


def test_class_probabilities(tmp_path: Path) -> None:
    base = small_flow().config
    assert base is not None
    data = replace(base.images, classes=True, class_names=("cat", "dog"))
    flow = shaken(build(replace(base, data=data, model=replace(base.model, context_dim=2))))
    files = ImageFiles(flow, pictures(tmp_path, (8, 8), (8, 8)))
    for score, image in zip(score_images(flow, files), files, strict=True):
        x = dequantized(flow, image[None], seed=0, draw=0)
        with evaluating(flow):
            joint = [encode(flow, x, (8, 8), c)[1].item() - np.log(2) for c in range(2)]
        assert score.log_prob == pytest.approx(np.logaddexp(*joint), rel=1e-6)
        assert score.likeliest_class == ("cat", "dog")[int(np.argmax(joint))]
        probability = np.exp(max(joint) - np.logaddexp(*joint))
        assert score.class_probability == pytest.approx(probability, rel=1e-4)


def test_images_are_resized_as_in_training(tmp_path: Path) -> None:
    large, flow = noise(tmp_path / "large.png", side=21), small_flow()
    config = replace(flow.config, data=replace(flow.config.data, shape=(1, 8, 8)))
    for resize, side in ((None, 21), (8, 8)):
        flow.config = replace(config, data=replace(config.data, resize=resize))
        assert ImageFiles(flow, [large])[0].shape == (1, side, side)
