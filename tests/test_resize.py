"""Pictures scaled to one size on their way into a training: train --resize."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realnvp import load_flow
from realnvp.cli.main import run
from realnvp.data.images import read_image, smallest_side, to_size

SMALL = ["--model.width", "4", "--model.num-blocks", "0", "--model.num-couplings", "1"]
SMALL += ["--model.num-scales", "1", "--train.max-steps", "1", "--train.batch-size", "4"]
SMALL += ["--train.eval-images", "8", "--train.tracker", "none", "--device", "cpu"]


def pictures(folder: Path, *, count: int = 20) -> Path:
    """Pictures of several sizes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        height, width = random.integers(9, 30, 2)
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


def train(folder: Path, run_dir: Path, *flags: str) -> int:
    where = ["--data.source", str(folder), "--run-dir", str(run_dir)]
    return run(["train", "images-modern", *where, *SMALL, *flags])


@pytest.fixture(scope="module")
def resized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures, and a training on them with --resize 8."""
    tmp_path = tmp_path_factory.mktemp("resized")
    folder = pictures(tmp_path / "in")
    assert train(folder, tmp_path / "run", "--resize", "8") == 0
    return folder, tmp_path / "run"


def test_the_middle_of_each_is_what_prepare_takes(resized: tuple[Path, Path]) -> None:
    folder, run_dir = resized
    arrays = (run_dir / "data").glob("*.npy")
    stored = {image.tobytes() for path in arrays for image in np.load(path)}
    expected = {to_size(read_image(path), resize=(8,)).tobytes() for path in folder.glob("*.png")}
    assert stored == expected


def test_the_run_remembers_it(resized: tuple[Path, Path]) -> None:
    """Evaluation and scores bring other pictures to the size, too, and the training goes on."""
    folder, run_dir = resized
    config = load_flow(run_dir).config
    assert config is not None
    assert config.data.resize == 8
    assert json.loads((run_dir / "data" / "dataset.json").read_text())["resize"] == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no word of what scaling drops: the flow wants it so
        assert run(["evaluate", str(run_dir), "--data.source", str(folder)]) == 0
    scores = []
    for flags in ([], ["--resize"]):
        out = run_dir.parent / "scores.csv"
        assert run(["score", str(run_dir), str(folder), "--out", str(out), *flags]) == 0
        scores.append(out.read_text())
    assert scores[0] == scores[1]
    assert len(scores[0].splitlines()) == 21
    assert train(folder, run_dir, "--resize=8", "--train.max-steps", "2") == 0


def test_what_is_dropped_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By train, which refuses what is too few for a batch."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((40, 50, 3), i, np.uint8)).save(folder / f"{i}.png")
    told = "warning: --resize 8: drops 96.8 % of the pixels of 40x50 pictures; "
    assert train(folder, tmp_path / "run", "--resize", "8") == 2
    error = capsys.readouterr().err
    assert told + "--crop 8 without it trains on pieces at full resolution" in error
    assert "only 2 training images (rows); --crop 8 in place of --resize takes many" in error


def test_another_size_is_another_training(
    resized: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*resized, "--resize", "16") == 2
    assert "data.resize" in capsys.readouterr().err


def test_crops_of_scaled_pictures(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", count=12)
    assert train(folder, tmp_path / "run", "--resize", "16", "--crop", "8") == 0
    stored = np.load(tmp_path / "run" / "data" / "train.npy").tobytes()
    inside = [
        smallest_side(read_image(path), 16).tobytes() in stored for path in folder.glob("*.png")
    ]
    assert sum(inside) == 10


@pytest.mark.parametrize(
    ("flag", "words"),
    [("0", "--data.resize"), ("x", "--data.resize: 'x' is not a whole number")],
)
def test_sizes_that_make_no_sense(
    flag: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, tmp_path / "run", "--resize", flag) == 2
    assert words.removeprefix("--") in capsys.readouterr().err


def test_arrays_are_not_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 16, 16, 3), np.uint8))
    assert train(tmp_path / "x.npy", tmp_path / "run", "--resize", "8") == 2
    assert "--data.resize: is for image files" in capsys.readouterr().err
