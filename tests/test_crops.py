"""Crops of pictures of any size: places, storage, groups, and runs of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from realnvp.config.fields import ImageData
from realnvp.config.presets import PRESETS
from realnvp.data.dataset import Crops, Pictures, Subset
from realnvp.data.prepared import find_data, prepare
from realnvp.training.batches import Batches

SIZES = np.array([(9, 20), (8, 8), (33, 17), (16, 24)])


def placed(height: int, width: int, number: int = 0) -> NDArray[np.uint8]:
    """A picture whose channels are the row, the column and the number of the picture."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], -1).astype(np.uint8)


SOME = Pictures(4, lambda i: placed(*SIZES[i], i))


def folder(path: Path, count: int = 6) -> Path:
    """Noise of many sizes."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 256, (*rng.integers(8, 40, 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
    return path


def test_a_picture_has_as_many_crops_as_fit() -> None:
    crops = Crops(SOME, SIZES, 8)
    assert crops.groups.tolist() == [0] * 2 + [1] + [2] * 8 + [3] * 6
    assert len(crops[:]) == len(crops) == 17
    for picture in range(4):
        cells = crops[np.flatnonzero(crops.groups == picture)]
        assert (cells[..., 2] == picture).all()
        covered = np.zeros(SIZES[picture], int)
        for top, left in cells[:, 0, 0, :2].astype(int):
            covered[top : top + 8, left : left + 8] += 1
        assert covered.max() == 1  # no overlap
        height = SIZES[picture][0]
        assert covered[-1].any() == (height // 8 > 1 or height == 8)  # from edge to edge


def test_crops_of_a_large_picture_are_spread_over_it() -> None:
    large = Crops(SOME, np.array([(800, 400), (8, 4000)]), 8, most=64)
    assert large.grid.tolist() == [[11, 5], [1, 64]]
    middle = Crops(Subset(SOME, np.array([2, 0])), SIZES[[2, 0]], 8, most=1)
    assert middle[:][:, 0, 0].tolist() == [[12, 4, 2], [0, 6, 0]]


def test_training_takes_other_crops_each_epoch() -> None:
    """A function of (seed, epoch, image), all over each picture, for any number of processes."""
    crops, config = Crops(SOME, SIZES, 8), replace(PRESETS["images-modern"], seed=4)
    config = replace(config, train=replace(config.train, batch_size=4))
    batches = Batches(crops, config, device=torch.device("cpu"))
    corners: dict[int, set[tuple[int, ...]]] = {}
    for step in range(40 * batches.per_epoch):
        for top, left, picture in batches.at(step).floor()[:, :, 0, 0].long().tolist():
            corners.setdefault(picture, set()).add((top, left))
    assert {*corners} == {0, 1, 2, 3}
    assert corners[1] == {(0, 0)}
    assert (max(corners[2])[0], max(left for _, left in corners[2])) == (25, 9)
    assert len(corners[2]) > 150  # of 260 places
    again = Batches(crops, config, device=torch.device("cpu"))
    assert torch.equal(again.at(7), batches.at(7))
    assert not torch.equal(again.at(7 + batches.per_epoch), again.at(7))
    second = Batches(crops, config, device=torch.device("cpu"), process=1, processes=2)
    assert torch.equal(second.at(7), batches.at(7)[1::2])


def test_prepared_crops_are_the_crops(tmp_path: Path) -> None:
    config = ImageData(source=str(folder(tmp_path / "in", 12)), crop=8)
    found = find_data(config, seed=3)
    data = prepare(config, seed=3, folder=tmp_path / "out")
    for split in ("train", "validation", "test"):
        assert np.array_equal(found.splits[split][:], data.splits[split][:])
        assert len(data.groups_of(split) or []) == len(data.splits[split])
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert len(about["sizes"]) == 10
    pictures = {np.asarray(Image.open(path)).tobytes() for path in (tmp_path / "in").iterdir()}
    assert isinstance(data.train, Crops)
    assert {data.train.pictures[i].tobytes() for i in range(10)} < pictures
    with pytest.raises(ValueError, match="out"):
        prepare(replace(config, crop=4), seed=3, folder=tmp_path / "out")
    assert find_data(replace(config, source=str(tmp_path / "out")), seed=0).crop == 8


def test_arrays_are_cropped_and_decoded_like_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.stack([placed(20, 24, i) for i in range(9)]))
    found = find_data(ImageData(source=str(tmp_path / "x.npy"), crop=8), seed=0)
    assert found.shape == (3, 8, 8)
    assert found.counts == {"train": 7 * 6, "validation": 6, "test": 6}
    deep = np.random.default_rng(0).integers(0, 65536, (9, 8, 8, 3), dtype=np.uint16)
    np.save(tmp_path / "x.npy", deep)
    config = ImageData(source=str(tmp_path / "x.npy"))
    assert find_data(config, seed=0).levels == 65536
    for crop in (None, 4):
        gray = find_data(replace(config, bit_depth=8, color_mode="gray", crop=crop), seed=0)
        assert (gray.levels, gray.shape) == (256, (1, crop or 8, crop or 8))
        assert gray.test[:].dtype == np.uint8
