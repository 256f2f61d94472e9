"""Images in, uint8 splits out; every kind of bad input is one line that names it."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pictures import color, pictures
from PIL import Image

from realnvp.config import PRESETS, ImageData
from realnvp.config.errors import Reasons
from realnvp.data import (
    Dataset,
    codec_bits_per_dim,
    dequantize,
    find_data,
    open_splits,
    prepare,
    quantize,
    read_image,
)
from realnvp.data.builtin import (
    FLATTEST,
    MARGIN,
    PHOTOGRAPHS,
    SIDES,
    load_photographs,
    regions,
    windows,
)
from realnvp.data.dataset import SPLITS, Lazy, split_off
from realnvp.data.images import codec_sizes
from realnvp.io.files import DamagedError, atomic_save

PHOTOS, DIGITS = PRESETS["photos"].data, PRESETS["digits"].data
RNG = np.random.default_rng(0)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(PHOTOS, seed=0, folder=tmp_path_factory.mktemp("photos"))


def images(source: Path | None, **fields: object) -> ImageData:
    return replace(ImageData(source=source and str(source)), **fields)


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantised_pixels_keep_their_grey_level(dtype: torch.dtype) -> None:
    gray = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    largest = torch.nextafter(torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype))
    for noise in (torch.zeros(()), torch.full((), 0.5), largest):
        x = dequantize(gray, noise.to(dtype).expand(gray.shape))
        assert x.dtype == dtype
        assert torch.equal(x.floor(), gray.to(dtype))
        assert torch.equal(quantize(x), gray)
    assert torch.equal(
        dequantize(gray, torch.full(gray.shape, 0.25, dtype=dtype)),
        gray + torch.tensor(0.25, dtype=dtype),
    )


def test_quantize_clamps_floors_and_refuses_nan() -> None:
    x = torch.tensor([-3.0, -0.1, 0.9, 16.99, 17.0, 255.9, 300.0, float("inf")])
    assert quantize(x).tolist() == [0, 0, 0, 16, 17, 255, 255, 255]
    assert quantize(x, levels=17).tolist() == [0, 0, 0, 16, 16, 16, 16, 16]
    assert "NaN" in complaint(lambda: quantize(torch.tensor([1.0, float("nan")])))
    for kind in (np.uint16, np.uint64, ">i4", ">f8"):
        assert quantize(np.array([300, 7], kind)[::-1]).tolist() == [7, 255]
    assert quantize(np.array([True])).tolist() == [1]


# Digits and photographs


def test_digits_are_split_into_disjoint_parts(tmp_path: Path) -> None:
    splits = prepare(DIGITS, seed=3, folder=tmp_path / "a")
    assert splits.shape == (1, 8, 8)
    assert splits.levels == 17
    assert splits.train.max() == 16
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [
        1437,
        180,
        180,
    ]
    again, other = (
        prepare(DIGITS, seed=3, folder=tmp_path / "b"),
        prepare(DIGITS, seed=4, folder=tmp_path / "c"),
    )
    assert np.array_equal(splits.test, again.test)
    assert not np.array_equal(splits.test, other.test)


@pytest.mark.parametrize("given", [(), ("validation",), ("test",), ("validation", "test")])
def test_cut_off_parts_share_no_image(context: tuple[str, ...]) -> None:
    parts = {split: np.zeros((3, 1, 1, 1), np.uint8) for split in context}
    whole = split_off(
        parts | {"train": Lazy(100, lambda wanted: wanted.astype(np.uint8))}, 0.1, seed=0
    )
    cut = [whole[split] for split in whole if split not in context]
    assert list(whole) == ["train", "validation", "test"]
    assert all(len(whole[split]) == 3 for split in context)
    assert sorted(np.concatenate([part[:] for part in cut]).tolist()) == list(range(100))
    assert all(len(part) == 10 for part in cut[1:])


def test_photographs_come_from_the_seed_alone(photos: Dataset) -> None:
    assert photos.shape == (3, 32, 32)
    assert photos.groups is not None
    assert [len(part) for part in (photos.train, photos.validation, photos.test)] == [
        20000,
        500,
        1000,
    ]
    assert np.bincount(photos.groups["test"]).tolist() == [125] * len(PHOTOGRAPHS)
    again, other = find_data(PHOTOS, seed=0), find_data(PHOTOS, seed=1)
    for split, stored in {
        "train": photos.train,
        "validation": photos.validation,
        "test": photos.test,
    }.items():
        assert np.array_equal(again.splits[split][:64], stored[:64])
        assert not np.array_equal(other.splits[split][:64], stored[:64])


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
                assert (
                    split == "train"
                    or pixels[top : top + side, left : left + side].mean(axis=-1).std() >= FLATTEST
                )
                covered[split][top : top + side, left : left + side] = True
                near = (
                    slice(max(0, top - MARGIN), top + side + MARGIN),
                    slice(max(0, left - MARGIN), left + side + MARGIN),
                )
                grown[split][near] = True
        for one in drawn:
            assert not any((grown[one] & covered[other]).any() for other in drawn if other != one)
        boxes = regions(PHOTOGRAPHS[number], width, height)
        assert min(min(box[2] - box[0], box[3] - box[1]) for box in boxes.values()) >= SIDES[1]
    assert abs(drawn["train"][:, 3].mean() - drawn["test"][:, 3].mean()) < 2


def test_codecs_beat_raw_pixels(photos: Dataset) -> None:
    sizes = codec_bits_per_dim(photos.test[:16])
    assert 3 < sizes["webp"] < sizes["png"] < 8
    flat = codec_bits_per_dim(np.zeros((2, 32, 32, 1), np.uint8))
    assert 0 < flat["webp"] < flat["png"] < 1


def test_webp_is_as_small_as_any_search_finds(photos: Dataset) -> None:
    def by(image: Any, method: int) -> int:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "WEBP", lossless=True, quality=100, method=method)
        return file.tell()

    for image in photos.test[:3]:
        sizes = [by(image, method) for method in (0, 4, 5, 6)]
        assert codec_sizes(image)["webp"] == min(sizes)
        assert codec_sizes(image, thorough=False)["webp"] == min(sizes[:3])


# The prepared folder


def test_a_second_preparation_changes_nothing(tmp_path: Path) -> None:
    prepare(DIGITS, seed=0, folder=tmp_path)
    before = {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()
    }
    assert sorted(before) == ["dataset.json", "test.npy", "train.npy", "validation.npy"]
    splits = prepare(DIGITS, seed=0, folder=tmp_path)
    assert before == {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()
    }
    assert isinstance(splits.train, np.memmap)
    assert not splits.train.flags.writeable
    open_splits(tmp_path, verify=SPLITS)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    prepare(DIGITS, seed=0, folder=tmp_path)
    assert complaint(lambda: prepare(DIGITS, seed=1, folder=tmp_path)).startswith("seed: ")
    for field, config in {
        "data.val_fraction": replace(DIGITS, val_fraction=0.2),
        "data.levels": replace(DIGITS, levels=16),
        "data.set": replace(DIGITS, set="images"),
        "data.source": replace(DIGITS, source="elsewhere"),
        "data.shape": replace(DIGITS, shape=(3, 8, 8)),
    }.items():
        assert complaint(lambda config=config: prepare(config, seed=0, folder=tmp_path)).startswith(
            f"{field}: "
        )


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "{}",
        '"levels": 17->"levels": 300',
        '"levels": 17->"levels": "x"',
        '"groups": null->"groups": {"test": [1]}',
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, damage: str) -> None:
    prepare(DIGITS, seed=0, folder=tmp_path)
    path = tmp_path / "dataset.json"
    old, _, new = damage.partition("->")
    path.write_text(path.read_text().replace(old, new) if new else damage)
    assert str(path) in complaint(lambda: open_splits(tmp_path))
    with pytest.raises(DamagedError, match=str(path)):
        prepare(DIGITS, seed=0, folder=tmp_path)


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "empty", "garbage", "dtype", "shape", "levels"]
)
def test_a_damaged_split_is_named(tmp_path: Path, damage: str) -> None:
    array = np.array(prepare(DIGITS, seed=0, folder=tmp_path).validation)
    path = tmp_path / "validation.npy"
    content = {
        "truncated": path.read_bytes()[:-5],
        "empty": b"",
        "garbage": b"\x93NUMPY\x01\x00\xff\xff(",
    }
    arrays: dict[str, npt.NDArray[Any]] = {
        "dtype": array.astype(np.float32),
        "shape": array[1:],
        "levels": array + 1,
    }
    path.unlink()
    if damage in content:
        path.write_bytes(content[damage])
    elif damage in arrays:
        np.save(path, arrays[damage])
    assert str(path) in complaint(lambda: open_splits(tmp_path))


def test_checksums_find_a_flipped_bit(tmp_path: Path) -> None:
    prepare(DIGITS, seed=0, folder=tmp_path)
    content = bytearray((tmp_path / "test.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "test.npy").write_bytes(content)
    assert "test.npy: its checksum" in complaint(lambda: open_splits(tmp_path, verify=SPLITS))


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_save(path, lambda file: file.write(b"old"))

    def fail(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        atomic_save(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# The user's own images


def test_a_folder_of_images_is_cut_into_splits(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in" / "deep", 20).parent
    color().save(source / "deep" / ".hidden.png")
    (source / "notes.txt").write_text("no image")
    color().save(source / "UPPER.BMP")
    found = find_data(images(source), seed=0)
    assert found.shape == (3, 8, 8)
    assert found.counts == {"train": 17, "validation": 2, "test": 2}
    before = sorted(path.name for path in source.rglob("*"))
    splits = prepare(images(source), seed=0, folder=tmp_path / "out")
    assert before == sorted(path.name for path in source.rglob("*"))
    every = {
        read_image(path).tobytes()
        for path in source.rglob("*")
        if path.suffix in (".png", ".BMP") and path.name[0] != "."
    }
    assert {
        image.tobytes() for part in (splits.train, splits.validation, splits.test) for image in part
    } == every
    assert len(every) == 21


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
@pytest.mark.parametrize("arrays", [True, False])
def test_given_splits_are_kept(tmp_path: Path, name: str, arrays: bool) -> None:
    counts = {"train": 12, name: 3, "test": 4}
    for split, count in counts.items():
        if arrays:
            np.save(tmp_path / f"{split}.npy", RNG.integers(0, 256, (count, 8, 6), dtype=np.uint8))
        else:
            pictures(tmp_path / split, count)
    splits = prepare(images(tmp_path), seed=0, folder=tmp_path / "out")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [12, 3, 4]
    assert splits.shape == ((1, 8, 6) if arrays else (3, 8, 8))
    (tmp_path / "train").rename(tmp_path / "away") if not arrays else (
        tmp_path / "train.npy"
    ).unlink()
    assert "nothing named train" in complaint(lambda: find_data(images(tmp_path), seed=0))


def test_a_prepared_folder_is_a_source(tmp_path: Path) -> None:
    prepare(DIGITS, seed=0, folder=tmp_path / "in")
    config = replace(DIGITS, source=str(tmp_path / "in"))
    assert find_data(config, seed=5).counts["test"] == 180
    assert prepare(config, seed=5, folder=tmp_path / "out").name == "digits"
    assert not (tmp_path / "out").exists()
    assert "data.set" in complaint(lambda: find_data(replace(config, set="cifar10"), seed=0))


def test_bad_images_are_told_reason_by_reason(tmp_path: Path) -> None:
    """How many files, the first, and the flag that helps."""
    source = pictures(tmp_path, 30)
    for number in (3, 7):
        (source / f"{number:02}.png").write_bytes(b"")
    color(9, 9).save(source / "05.png")
    for number in (11, 12, 13):
        glass = color()
        glass.putalpha(200)
        glass.save(source / f"{number}.png")
    for number in (14, 15):
        color().convert("L").save(source / f"{number}.png")
    Image.fromarray(np.full((8, 8), 999, np.uint16)).save(source / "16.png")
    (source / "17.png").write_bytes((source / "18.png").read_bytes()[:150])
    (source / "19.png").write_bytes((source / "20.png").read_bytes()[:190])
    with pytest.raises(Reasons) as caught:
        find_data(images(source), seed=0)
    lines = [line.replace(f"{source}/", "") for line in caught.value.lines]
    assert lines == [
        "2 files: not an image that Pillow can read, first 03.png",
        "05.png: is 9 high, 9 wide, most are 8 high, 8 wide: --crop 8 trains on random crops, "
        "--resize 8 on their middle, scaled",
        "3 files: transparent pixels, first 11.png: --background white",
        "2 files: 1 channel, most have 3, first 14.png: --color-mode rgb",
        "16.png: 16 bits per channel, most have 8 bits: --bit-depth 8",
        f"2 files: {lines[-1][9:].split(',')[0]}, first 17.png",
    ]
    assert "truncated" in lines[-1]


def test_harmless_kinds_of_images_are_read(tmp_path: Path) -> None:
    opaque = color(4, 6)
    pixels = np.asarray(opaque)
    opaque.convert("RGBA").save(tmp_path / "rgba.png")
    opaque.quantize(200).save(tmp_path / "palette.png")
    opaque.convert("L").save(tmp_path / "grey.png")
    opaque.convert("LA").save(tmp_path / "la.png")
    opaque.convert("1").save(tmp_path / "one.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    opaque.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "rgba.png"), pixels)
    assert np.array_equal(
        read_image(tmp_path / "palette.png"), np.asarray(opaque.quantize(200).convert("RGB"))
    )
    gray = np.asarray(opaque.convert("L"))[..., None]
    assert np.array_equal(read_image(tmp_path / "grey.png"), gray)
    assert np.array_equal(read_image(tmp_path / "la.png"), gray)
    assert set(np.unique(read_image(tmp_path / "one.png"))) <= {0, 255}
    assert read_image(tmp_path / "one.png").shape == (4, 6, 1)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(pixels, -1))


def test_linked_folders_are_not_followed(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", 5)
    (source / "loop").symlink_to(source)
    assert sum(find_data(images(source), seed=0).counts.values()) == 5
