"""Crops of pictures of any sizes: which, from where, stored how, and grouped by picture."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from told import Out, answer, refused

from realnvp.config import PRESETS, ImageData, read_config
from realnvp.data import find_data, open_splits, prepare
from realnvp.data.crops import Crops, ReadPictures, StoredPictures
from realnvp.training.batches import Batches

SIZES = np.array([(9, 20), (8, 8), (33, 17), (16, 24)])
TINY = [
    *["--model.num-scales", "2", "--model.num-couplings", "1", "--model.width", "4"],
    *["--train.max-steps", "3", "--train.batch-size", "4", "--train.eval-every", "3"],
    *["--device", "cpu", "--train.tracker", "none"],
]


def placed(height: int, width: int, number: int = 0) -> NDArray[np.uint8]:
    """A picture whose pixels say which picture, row and column they are."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], -1).astype(np.uint8)


def some() -> ReadPictures:
    return ReadPictures(SIZES, lambda i: placed(*SIZES[i], i))


def folder(path: Path, count: int = 6, seed: int = 0) -> Path:
    """Noise of many sizes."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    for i in range(count):
        height, width = rng.integers(8, 40, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
    return path


def test_a_picture_has_as_many_crops_as_fit() -> None:
    crops = Crops(some(), 8)
    assert len(crops) == 1 * 2 + 1 + 4 * 2 + 2 * 3
    assert crops.groups.tolist() == [0] * 2 + [1] + [2] * 8 + [3] * 6
    assert len(crops[:]) == len([*crops]) == len(crops)
    for picture in range(4):
        cells = (
            crops[crops.groups == picture]
            if picture < 0
            else crops[np.flatnonzero(crops.groups == picture)]
        )
        assert (cells[..., 2] == picture).all()
        corners = {tuple(map(int, cell[0, 0, :2])) for cell in cells}
        assert len(corners) == len(cells)
        covered = np.zeros(SIZES[picture], int)
        for top, left in corners:
            covered[top : top + 8, left : left + 8] += 1
        assert covered.max() == 1  # they do not overlap
        height = SIZES[picture][0]
        assert covered[-1].any() == (height // 8 > 1 or height == 8)  # from edge to edge


def test_of_a_large_picture_some_crops_are_spread_over_it() -> None:
    large = ReadPictures(np.array([(800, 400), (8, 4000)]), lambda i: placed(9, 9))
    crops = Crops(large, 8, most=64)
    assert crops.grid.tolist() == [[11, 5], [1, 64]]


def test_stored_pictures_are_the_pictures() -> None:
    flat = np.concatenate([picture.ravel() for picture in map(some().__getitem__, range(4))])
    stored = StoredPictures(flat, SIZES.tolist(), 3)
    for i in range(4):
        assert np.array_equal(stored[i], some()[i])


def test_training_cuts_other_crops_each_epoch(tmp_path: Path) -> None:
    """A function of (seed, epoch, image), all over each picture, whoever asks."""
    crops, config = Crops(some(), 8), replace(PRESETS["images-modern"], seed=4)
    config = replace(config, train=replace(config.train, batch_size=4))
    batches = Batches(crops, config, device=torch.device("cpu"))
    assert batches.per_epoch == len(crops) // 4
    corners: dict[int, set[tuple[int, ...]]] = {}
    for step in range(40 * batches.per_epoch):
        x = batches.at(step).floor()
        assert torch.equal(x[..., 1:, 0, 0] if x.ndim < 4 else x[:, 0, 1:] - 1, x[:, 0, :-1])
        for top, left, picture in x[:, :, 0, 0].long().tolist():
            corners.setdefault(picture, set()).add((top, left))
    assert {*corners} == {0, 1, 2, 3}
    assert corners[1] == {(0, 0)}
    assert max(corners[2])[0] == 25
    assert max(left for _, left in corners[2]) == 9
    assert len(corners[2]) > 150  # of 260 places
    again = Batches(crops, config, device=torch.device("cpu"))
    assert torch.equal(again.at(7), batches.at(7))
    assert not torch.equal(again.at(7 + batches.per_epoch), again.at(7))
    two = [
        Batches(crops, config, device=torch.device("cpu"), process=i, processes=2) for i in (0, 1)
    ]
    assert torch.equal(two[1].at(7), batches.at(7)[1::2])


def test_what_is_written_is_what_is_found(tmp_path: Path) -> None:
    """Pictures are in one split; train is one flat file, the others are crops."""
    config = ImageData(source=str(folder(tmp_path / "in", 12)), crop=8)
    found = find_data(config, seed=3)
    data = prepare(config, seed=3, folder=tmp_path / "out")
    for split in ("train", "validation", "test"):
        assert np.array_equal(found.splits[split][:], data.splits[split][:])
    flat = np.load(tmp_path / "out" / "train.npy")
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert flat.shape == (sum(high * wide * 3 for high, wide in about["sizes"]),)
    assert len(about["sizes"]) == 10
    pictures = {np.asarray(Image.open(path)).tobytes() for path in (tmp_path / "in").iterdir()}
    assert isinstance(data.train, Crops)
    assert {data.train.pictures[i].tobytes() for i in range(10)} < pictures
    assert data.groups is not None
    assert data.groups_of("test") == data.groups["test"]
    assert len(data.groups["test"]) == len(data.test)
    assert len(data.groups_of("train")) == len(data.train)
    with pytest.raises(ValueError, match=r"data.crop: .* was prepared with 8, not 4"):
        prepare(replace(config, crop=4), seed=3, folder=tmp_path / "out")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sizes", None),
        ("sizes", [[8, 8]]),
        ("sizes", [[10**9, 10**9]]),
        ("sizes", [[8, -8]]),
        ("sizes", "x"),
        ("crop", 9),
        ("crop", -8),
        ("background", "pink"),
        ("colours", "cmyk"),
        ("depth", 7),
    ],
)
def test_a_senseless_description_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    prepare(ImageData(source=str(folder(tmp_path / "in")), crop=8), seed=0, folder=tmp_path / "x")
    path = tmp_path / "x" / "dataset.json"
    about = json.loads(path.read_text()) | {field: value}
    about["sha256"].pop("dataset.json")
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=f"{path}: {field}"):
        open_splits(tmp_path / "x")


def test_arrays_are_cropped_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.stack([placed(20, 24, i) for i in range(9)]))
    found = find_data(ImageData(source=str(tmp_path / "x.npy"), crop=8), seed=0)
    assert found.shape == (3, 8, 8)
    assert found.counts == {"train": 7 * 6, "validation": 6, "test": 6}


def test_arrays_are_read_as_files_are(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (9, 8, 8, 3), dtype=np.uint16)
    np.save(tmp_path / "x.npy", deep)
    config = ImageData(source=str(tmp_path / "x.npy"))
    kept = find_data(config, seed=0)
    assert kept.levels == 65536
    assert kept.train[:].dtype == np.uint16
    for crop in (None, 4):
        gray = find_data(replace(config, bit_depth=8, color_mode="grey", crop=crop), seed=0)
        assert gray.levels == 256
        assert gray.shape == (1, crop or 8, crop or 8)
        assert gray.test[:].dtype == np.uint8
        assert abs(gray.test[:].mean() * 256 - kept.test[:].mean()) < 2000


def test_a_run_of_crops(capsys: Out, tmp_path: Path) -> None:
    """Trained, resumed by the same command, evaluated; the standard error is over pictures."""
    source, run_dir = folder(tmp_path / "in", 12), tmp_path / "run"
    command = ["train", "images-modern", "--data.source", source, "--run-dir", run_dir, *TINY]
    line = refused(capsys, *command, unchanged=[tmp_path])
    assert "files: of another size than most" in line
    assert "--crop 8 trains on random crops" in line
    answer(capsys, *command, "--crop", "8")
    assert read_config(run_dir / "config.json").data.crop == 8
    assert answer(capsys, *command, "--train.max-steps", "4")["step"] == 4
    test = answer(capsys, "evaluate", run_dir)
    assert test["standard_error_over"] == "1 picture"
    other = folder(tmp_path / "other", 3, seed=9)
    own = answer(capsys, "evaluate", run_dir, "--data.source", other)
    assert own["standard_error_over"] == "3 pictures"
    assert own["shape"] == [3, 8, 8]
    four = answer(capsys, "evaluate", run_dir, "--data.source", other, "--crop", "4")
    assert four["shape"] == [3, 4, 4]
    for source in ([], ["--data.source", run_dir / "data"]):
        line = refused(capsys, "evaluate", run_dir, *source, "--crop", "4")
        assert "--crop: is for pictures of --data.source" in line
    answer(capsys, "check", run_dir)


def test_a_run_remembers_how_its_pictures_are_read(capsys: Out, tmp_path: Path) -> None:
    source, run_dir = tmp_path / "in", tmp_path / "run"
    source.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        planes = rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)
        Image.fromarray(planes).save(source / f"{i}.png")
    command = ["train", "images-modern", "--data.source", source, "--run-dir", run_dir, *TINY]
    line = refused(capsys, *command, unchanged=[tmp_path])
    assert line.endswith(
        f"6 files: transparent pixels, first {source / '0.png'}: --background white"
    )
    answer(capsys, *command, "--background", "#ff0000", "--color-mode", "grey")
    data = read_config(run_dir / "config.json").data
    assert (data.background, data.color_mode, data.shape) == ("#ff0000", "grey", (1, 8, 8))
    red = answer(capsys, "evaluate", run_dir, "--data.source", source)["bits_per_dim"]
    white = answer(capsys, "evaluate", run_dir, "--data.source", source, "--background", "white")[
        "bits_per_dim"
    ]
    assert red != white
    assert answer(capsys, "score", run_dir, source)["scores"]


def test_16_bits_from_end_to_end(capsys: Out, tmp_path: Path) -> None:
    source, run_dir = tmp_path / "in", tmp_path / "run"
    source.mkdir()
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (8, 8, 8), dtype=np.uint16)
    for i, gray in enumerate(deep):
        Image.fromarray(gray).save(source / f"{i}.png")
    command = ["train", "images-modern", "--data.source", source, "--run-dir", run_dir, *TINY]
    answer(capsys, *command)
    assert read_config(run_dir / "config.json").data.levels == 65536
    stored = np.load(run_dir / "data" / "train.npy")
    assert stored.dtype == np.uint16
    assert {image.tobytes() for image in stored} < {image.tobytes() for image in deep}
    bits = answer(capsys, "evaluate", run_dir)["bits_per_dim"]
    assert isinstance(bits, float)
    assert 14 < bits < 18  # noise of 16 bits
    answer(capsys, "sample", run_dir, "-n", "5", "--out", tmp_path / "x.npy")
    samples = np.load(tmp_path / "x.npy")
    assert samples.dtype == np.uint16
    answer(capsys, "sample", run_dir, "-n", "5", "--out", tmp_path / "x.png")
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    assert sheet.shape == (2 * 8 + 2, 3 * 8 + 4)
    assert np.array_equal(sheet[:8, 10:18], samples[1, ..., 0])
    assert {*answer(capsys, "evaluate", run_dir, "--codecs")["codecs"]} == {"png"}  # type: ignore[misc]
    answer(capsys, "check", run_dir)
