"""Pixels, splits, built-in sets, prepared folders, and folders of pictures with their classes."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import color, pictures
from PIL import Image

from realnvp.config.fields import ImageData
from realnvp.config.presets import PRESETS
from realnvp.data.builtin import FLATTEST, MARGIN, PHOTOGRAPHS, SIDES, load_photographs, windows
from realnvp.data.dataset import SPLITS, Dataset, cut_rows, dequantize, quantize, take
from realnvp.data.images import codec_bits_per_dim, codec_sizes, lossless_webp, read_image
from realnvp.data.prepared import discard_prepared, find_data, find_split, open_splits, prepare
from realnvp.io.files import DamagedError

PHOTOS, DIGITS = PRESETS["photos"].data, PRESETS["digits"].data
RNG = np.random.default_rng(0)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(PHOTOS, seed=0, folder=tmp_path_factory.mktemp("photos"))


def images(source: Path, **fields: object) -> ImageData:
    return replace(ImageData(source=str(source)), **fields)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantized_pixels_keep_their_gray_level(dtype: torch.dtype) -> None:
    gray = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    largest = torch.nextafter(torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype))
    for noise in (torch.zeros(()), torch.full((), 0.5), largest):
        x = dequantize(gray, noise.to(dtype).expand(gray.shape))
        assert x.dtype == dtype
        assert torch.equal(x.floor(), gray.to(dtype))
        assert torch.equal(quantize(x), gray)


def test_quantize_clamps_floors_and_refuses_nan() -> None:
    x = torch.tensor([-3.0, -0.1, 0.9, 16.99, 17.0, 255.9, 300.0, float("inf")])
    assert quantize(x).tolist() == [0, 0, 0, 16, 17, 255, 255, 255]
    assert quantize(x, levels=17).tolist() == [0, 0, 0, 16, 16, 16, 16, 16]
    for kind in (np.uint16, np.uint64, ">i4", ">f8"):
        assert quantize(np.array([300, 7], kind)[::-1]).tolist() == [7, 255]
    with pytest.raises(ValueError, match="NaN"):
        quantize(torch.tensor([1.0, float("nan")]))


@given(st.integers(3, 200), st.floats(0.01, 0.3), st.integers(0, 5))
def test_without_equal_items_a_permutation_is_cut(count: int, fraction: float, seed: int) -> None:
    held = max(1, round(fraction * count))
    order = np.random.default_rng(seed).permutation(count)
    for equal in (None, range(count)):
        rows = cut_rows({"train": np.zeros(count)}, fraction, seed=seed, equal=equal)
        assert rows["validation"].tolist() == order[-2 * held : -held].tolist()
        assert rows["test"].tolist() == order[-held:].tolist()
        assert rows["train"].tolist() == sorted(order[: -2 * held])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=100), st.integers(0, 5))
def test_equal_items_stay_in_one_split(keys: list[int], seed: int) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):
            rows = cut_rows({"train": np.zeros(len(keys))}, 0.1, seed=seed, equal=keys)
    except ValueError:
        assert len({*keys}) < 6
        return
    assert sorted(np.concatenate([*rows.values()]).tolist()) == list(range(len(keys)))
    found = [{keys[i] for i in part} for part in rows.values()]
    assert all(found)
    assert sum(map(len, found)) == len({*keys})


@pytest.mark.parametrize("there", [(), ("validation",), ("test",), ("validation", "test")])
def test_splits_that_are_there_stay(there: tuple[str, ...]) -> None:
    splits = {split: np.zeros((3, 1, 1, 1), np.uint8) for split in there}
    splits["train"] = np.arange(100)
    whole = take(splits, cut_rows(splits, 0.1, seed=0))
    assert list(whole) == ["train", "validation", "test"]
    assert all(len(whole[split]) == 3 for split in there)
    new = [whole[split][:] for split in whole if split not in there]
    assert sorted(np.concatenate(new).tolist()) == list(range(100))


def test_equal_pictures_are_counted(tmp_path: Path) -> None:
    source = pictures(tmp_path, 20)
    for number in range(10):
        (source / f"again-{number}.png").write_bytes((source / "00.png").read_bytes())
    with pytest.warns(UserWarning, match="10 of 30"):
        found = find_data(images(source), seed=0)
    seen = {split: {image.tobytes() for image in found.splits[split][:]} for split in SPLITS}
    assert len(set.union(*seen.values())) == 20 == sum(map(len, seen.values()))


def test_digits_come_from_the_seed_alone(tmp_path: Path) -> None:
    splits = prepare(DIGITS, seed=3, folder=tmp_path / "a")
    assert (splits.shape, splits.levels, splits.train[:].max()) == ((1, 8, 8), 17, 16)
    assert splits.counts == {"train": 1437, "validation": 180, "test": 180}
    again, other = find_data(DIGITS, seed=3), find_data(DIGITS, seed=4)
    assert np.array_equal(splits.test[:], again.test[:])
    assert not np.array_equal(splits.test[:], other.test[:])


def test_photographs_come_from_the_seed_alone(photos: Dataset) -> None:
    assert photos.shape == (3, 32, 32)
    assert photos.counts == {"train": 20_000, "validation": 500, "test": 1_000}
    assert photos.groups is not None
    assert np.bincount(photos.groups["test"]).tolist() == [125] * len(PHOTOGRAPHS)
    again, other = find_data(PHOTOS, seed=0), find_data(PHOTOS, seed=1)
    for split in SPLITS:
        assert np.array_equal(again.splits[split][:64], photos.splits[split][:64])
        assert not np.array_equal(other.splits[split][:64], photos.splits[split][:64])


def test_photograph_splits_share_no_source_pixel() -> None:
    photographs = load_photographs()
    drawn = windows(photographs, seed=0)
    for number, pixels in enumerate(photographs):
        height, width = pixels.shape[:2]
        covered = {split: np.zeros((height, width), bool) for split in drawn}
        grown = {split: np.zeros((height, width), bool) for split in drawn}
        for split, rows in drawn.items():
            for left, top, side in rows[rows[:, 0] == number, 1:].tolist():
                assert 0 <= left <= width - side
                assert 0 <= top <= height - side
                assert SIDES[0] <= side <= SIDES[1]
                window = pixels[top : top + side, left : left + side]
                assert split == "train" or window.mean(axis=-1).std() >= FLATTEST
                covered[split][top : top + side, left : left + side] = True
                top, left, side = max(0, top - MARGIN), max(0, left - MARGIN), side + MARGIN
                grown[split][top : top + side, left : left + side] = True
        for one in drawn:
            assert not any((grown[one] & covered[other]).any() for other in drawn if other != one)


def test_sizes_of_other_formats(photos: Dataset) -> None:
    sizes = codec_bits_per_dim(photos.test[:16])
    assert 3 < sizes["webp"] < sizes["png"] < 8
    flat = codec_bits_per_dim(np.zeros((2, 32, 32, 1), np.uint8))
    assert 0 < flat["webp"] < flat["png"] < 1
    image = photos.test[:1][0]
    assert codec_sizes(image)["webp"] <= len(lossless_webp(image, 6))
    pytest.importorskip("imagecodecs")
    deep = RNG.integers(0, 65536, (16, 16, 3), dtype=np.uint16)
    assert {*codec_sizes(deep)} == {"png", "jxl"}
    assert codec_sizes(deep)["png"] >= deep.nbytes


def test_a_second_preparation_changes_nothing(tmp_path: Path) -> None:
    folder, config = tmp_path / "data", replace(DIGITS, classes=True)
    prepare(config, seed=0, folder=folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    arrays = [f"{split}{suffix}.npy" for split in SPLITS for suffix in ("", "-labels")]
    assert sorted(before) == sorted(["dataset.json", *arrays])
    splits = prepare(config, seed=0, folder=folder, verify=SPLITS)
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert isinstance(splits.train, np.memmap)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_other_settings_are_refused_until_the_folder_is_discarded(tmp_path: Path) -> None:
    """Only what was prepared is deleted."""
    prepare(DIGITS, seed=0, folder=tmp_path / "data")
    others: dict[str, Any] = {"val_fraction": 0.2, "levels": 16, "classes": True, "set": "images"}
    others |= {"source": "elsewhere", "shape": (3, 8, 8)}
    for name, value in others.items():
        with pytest.raises(ValueError, match="data"):
            prepare(replace(DIGITS, **{name: value}), seed=0, folder=tmp_path / "data")
    with pytest.raises(ValueError, match="data"):
        prepare(DIGITS, seed=1, folder=tmp_path / "data")
    (tmp_path / "data" / "notes.txt").touch()
    discard_prepared(tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["notes.txt"]
    (tmp_path / "data" / "notes.txt").unlink()
    prepare(DIGITS, seed=1, folder=tmp_path / "data")
    discard_prepared(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_files_of_others_stay(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.zeros(3))
    with pytest.raises(ValueError, match=tmp_path.name):
        prepare(DIGITS, seed=0, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.npy"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["dataset.json", "test.npy", "test-labels.npy"])
@pytest.mark.parametrize(
    "damage",
    [Path.unlink, flip, lambda path: path.write_bytes(b""), lambda path: path.write_text("{}")],
)
def test_damage_is_named(tmp_path: Path, name: str, damage: Callable[[Path], object]) -> None:
    prepare(replace(DIGITS, classes=True), seed=0, folder=tmp_path / "data")
    damage(tmp_path / "data" / name)
    with pytest.raises(DamagedError, match=name):
        open_splits(tmp_path / "data", verify=SPLITS)


def test_a_prepared_folder_is_a_source(tmp_path: Path) -> None:
    prepare(DIGITS, seed=0, folder=tmp_path / "in")
    config = replace(DIGITS, source=str(tmp_path / "in"))
    assert find_data(config, seed=5).counts["test"] == 180
    assert prepare(config, seed=5, folder=tmp_path / "out").name == "digits"
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"data\.set"):
        find_data(replace(config, set="cifar10"), seed=0)


def test_every_picture_is_in_one_split(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in" / "deep", 20).parent
    color().save(source / "deep" / ".hidden.png")
    (source / "notes.txt").write_text("no image")
    (source / "loop").symlink_to(source)
    color().save(source / "UPPER.BMP")
    splits = prepare(images(source), seed=0, folder=tmp_path / "out")
    assert splits.counts == {"train": 17, "validation": 2, "test": 2}
    files = [*source.glob("deep/[0-9]*.png"), source / "UPPER.BMP"]
    stored = {image.tobytes() for split in SPLITS for image in splits.splits[split][:]}
    assert stored == {read_image(path).tobytes() for path in files}


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
@pytest.mark.parametrize("arrays", [True, False])
def test_splits_by_name(tmp_path: Path, name: str, arrays: bool) -> None:
    for split, count in {"train": 12, name: 3, "test": 4}.items():
        if arrays:
            np.save(tmp_path / f"{split}.npy", RNG.integers(0, 256, (count, 8, 6), dtype=np.uint8))
        else:
            pictures(tmp_path / split, count)
    found = find_data(images(tmp_path), seed=0)
    assert [*found.counts.values()] == [12, 3, 4]
    assert found.shape == ((1, 8, 6) if arrays else (3, 8, 8))
    train = tmp_path / ("train.npy" if arrays else "train")
    train.rename(tmp_path / "away")
    with pytest.raises(ValueError, match="no train"):
        find_data(images(tmp_path), seed=0)


def test_the_first_bad_picture_is_named(tmp_path: Path) -> None:
    source = pictures(tmp_path, 20)
    (source / "03.png").write_bytes(b"")
    color(9, 9).save(source / "05.png")
    color().convert("RGBA").save(source / "06.png")  # opaque
    glass = color()
    glass.putalpha(200)
    glass.save(source / "12.png")
    color().convert("L").save(source / "14.png")
    for name in ("03", "12", "05", "14"):  # unreadable, then unlike the first
        with pytest.raises(ValueError, match=rf"{name}\.png"):
            find_data(images(source), seed=0)
        (source / f"{name}.png").unlink()
    find_data(images(source), seed=0)


def test_a_class_is_bound_to_its_picture_by_the_path(tmp_path: Path) -> None:
    for name, level in {"dark": 10, "10": 100, "9": 200}.items():
        (tmp_path / name / "inner").mkdir(parents=True)
        for number in range(6):
            pixels = np.full((4, 4), level + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / "inner" / f"{number}.png")
    found = find_data(images(tmp_path, classes=True), seed=0)
    assert found.class_names == ("10", "9", "dark")  # folders sort as texts
    assert found.labels is not None
    for split in SPLITS:
        levels = found.splits[split][:][:, 0, 0, 0]
        assert found.labels[split].tolist() == [{10: 0, 20: 1, 1: 2}[x // 10] for x in levels]
    files = sorted(tmp_path.rglob("*.png"))
    lines = [f"{path.relative_to(tmp_path).as_posix()},{i % 2}" for i, path in enumerate(files)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *reversed(lines), "gone.png,7"]))
    found = find_data(images(tmp_path, classes=True), seed=0)
    assert found.class_names == ("0", "1")
    assert found.labels is not None
    for image, label in zip(found.train[:], found.labels["train"], strict=True):
        assert label == image[0, 0, 0] % 10 % 2
    crops = find_data(images(tmp_path, classes=True, crop=2), seed=0)
    assert crops.labels is not None
    for image, label in zip(crops.test[:], crops.labels["test"], strict=True):
        assert label == image[0, 0, 0] % 10 % 2
    (tmp_path / "labels.csv").write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=files[0].name):
        find_data(images(tmp_path, classes=True), seed=0)
    with pytest.raises(ValueError, match=r"data\.classes"):
        find_data(replace(PHOTOS, classes=True), seed=0)


@pytest.mark.parametrize(
    ("labels", "names"), [([10, 9, 1], ("1", "9", "10")), (["01", "1", "x"], ("01", "1", "x"))]
)
def test_labels_beside_arrays(tmp_path: Path, labels: list[object], names: tuple[str, ...]) -> None:
    every = np.array(labels * 10)
    pixels = np.searchsorted(sorted({*labels}), every).astype(np.uint8)
    np.save(tmp_path / "train.npy", np.tile(pixels[:, None, None], (1, 4, 4)))
    np.save(tmp_path / "train-labels.npy", every)
    with pytest.warns(UserWarning, match="27 of 30"):
        found = find_data(images(tmp_path / "train.npy", classes=True), seed=0)
    assert found.class_names == names
    assert found.labels is not None
    for split in SPLITS:
        assert found.splits[split][:][:, 0, 0, 0].tolist() == found.labels[split].tolist()
    for bad in (every[1:], np.ones(30), np.array(["a"] * 30), every[:, None]):
        np.save(tmp_path / "train-labels.npy", bad)
        with pytest.raises(ValueError, match=tmp_path.name):
            find_data(images(tmp_path / "train.npy", classes=True), seed=0)


def test_labels_are_texts(tmp_path: Path) -> None:
    """01 is not 1, and what is no number is a name."""
    source = pictures(tmp_path, 30)
    lines = [f"{i:02}.png,{['01', '1', '--1'][i % 3]}" for i in range(30)]
    (source / "labels.csv").write_text("\n".join(lines))
    found = find_data(images(source, classes=True), seed=0)
    assert found.class_names == ("--1", "01", "1")
    assert found.labels is not None
    every = np.concatenate([found.labels[split] for split in SPLITS])
    assert np.bincount(every).tolist() == [10, 10, 10]


def test_labels_of_other_data(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        pictures(tmp_path / "in" / name, 4)
    found, split = find_split(tmp_path / "in", "test", ImageData(class_names=("ant", "cat", "dog")))
    assert split == "all"
    assert found.labels is not None
    assert found.labels["all"].tolist() == [1] * 4 + [2] * 4
    with pytest.warns(UserWarning, match="cat"):
        found, _ = find_split(tmp_path / "in", "test", ImageData(class_names=("ant", "dog")))
    assert found.labels is None
