"""The user's own images: .npy files, or folders of image files; and the class of each image."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NoReturn

import numpy as np

from realnvp.config import ImageData
from realnvp.data.dataset import SPLITS, Indices, Pictures, Pixels, Shape, Values, digest, open_npy
from realnvp.data.images import (
    check_levels,
    read_as,
    read_image,
    refuse,
    scan_files,
    smallest_side,
    to_size,
)

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jxl"]
)
SPLIT_NAMES = {name: name for name in SPLITS} | {"valid": "validation", "val": "validation"}


@dataclass(frozen=True)
class Scanned:
    """The images of a source."""

    roots: dict[str, Path]
    """By split: the .npy file or the folder of its images."""
    files: dict[str, list[Path]]
    """By split: the file of each image."""
    splits: dict[str, Pictures]
    sizes: dict[str, Indices]
    """By split: (N, 2), height and width of each image."""
    shape: Shape
    """Of an image, or of a crop."""
    levels: int
    digests: list[bytes]
    """A key per training image; equal images have equal keys."""


def scan(source: Path, config: ImageData) -> Scanned:
    """The splits of a source, at least train, as `config` wants them. Every image is read once.

    ValueError: all images that cannot be read, or all that differ from most.
    """
    roots = split_roots(source)
    files, splits = {}, {}
    for split, root in roots.items():
        files[split], read = _reader(root, config)
        splits[split] = Pictures(len(files[split]), partial(_load, read, config))
    items = [(split, i) for split in splits for i in range(len(splits[split]))]

    def look(item: tuple[str, int]) -> tuple[Shape, "np.dtype[Any]", bytes]:
        split, index = item
        file, pixels = files[split][index], splits[split][index]
        check_levels(pixels, levels_for(pixels.dtype, config.levels), name=file)
        if config.crop and min(pixels.shape[:2]) < config.crop:
            raise ValueError(f"{file}: {pixels.shape[:2]} is too small for crop {config.crop}")
        return pixels.shape, pixels.dtype, digest(pixels)

    looks = scan_files(items, look)
    kinds = [
        ("" if config.crop else f"{height}x{width}, ") + f"{channels} channels, {dtype}"
        for (height, width, channels), dtype, _ in looks
    ]
    most = Counter(kinds).most_common(1)[0][0]
    others = {
        f"{files[split][i]}: is {kind}; most are {most}"
        for (split, i), kind in zip(items, kinds, strict=True)
        if kind != most
    }
    refuse(sorted(others))
    (height, width, channels), dtype, _ = looks[0]
    shape = channels, config.crop or height, config.crop or width
    ends = np.cumsum([len(each) for each in splits.values()])
    every = np.split(np.array([(height, width) for (height, width, _), *_ in looks]), ends[:-1])
    sizes = dict(zip(splits, every, strict=True))
    digests = [key for _, _, key in looks[: len(splits["train"])]]
    levels = levels_for(dtype, config.levels)
    return Scanned(roots, files, splits, sizes, shape, levels, digests)


def split_roots(source: Path) -> dict[str, Path]:
    """The .npy file, or the folder of image files, of each split; train is first."""
    if source.is_file() and source.suffix.lower() == ".npy":
        return {"train": source}
    if not source.is_dir():
        raise ValueError(f"{source}: neither a folder nor an .npy file")
    arrays = {path.stem: path for path in source.glob("*.npy")}
    folders = {path.name: path for path in source.iterdir() if path.is_dir()}
    return split_entries(arrays, source) or split_entries(folders, source) or {"train": source}


def split_entries(entries: dict[str, Path], source: Path) -> dict[str, Path]:
    """The entries of a folder that are named like a split. ValueError: there are, but no train."""
    found = {split: entries[name] for name, split in SPLIT_NAMES.items() if name in entries}
    if found and "train" not in found:
        raise ValueError(f"{source}: holds {' and '.join(found)}, but no train")
    return found


def _reader(root: Path, config: ImageData) -> tuple[list[Path], Callable[[int], Pixels]]:
    """The file of each image, and a function that reads an image."""
    if root.is_dir():
        files = image_files(root)
        return files, lambda index: read_image(files[index], config)
    array = open_images(root)
    return [root] * len(array), lambda index: read_as(config, array[index])


def _load(read: Callable[[int], Pixels], config: ImageData, index: int) -> Pixels:
    """An image of the size that the configuration wants."""
    pixels = read(index)
    if not config.resize:
        return pixels
    if config.crop:
        return smallest_side(pixels, config.resize)
    return to_size(pixels, [config.resize])


def open_images(path: Path) -> Pixels:
    """The images of an .npy file, memory-mapped, (N, H, W, C)."""
    array = open_npy(path)
    images = array[..., None] if array.ndim == 3 else array
    whole = array.dtype in (np.uint8, np.uint16)
    if not whole or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{path}: {array.dtype} of shape {array.shape}; expected uint8 or uint16 (N, H, W) or "
            "(N, H, W, C) with 1 or 3 channels"
        )
    return images


def levels_for(dtype: "np.dtype[Any]", asked: int) -> int:
    """Gray levels: those of the configuration, but 65,536 for 16 bits if it leaves 256."""
    if dtype == np.uint8 and asked > 256:
        raise ValueError(f"data.levels: {asked}, but the images have 8 bits (data.bit_depth)")
    return 65536 if dtype == np.uint16 and asked <= 256 else asked


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted by relative path; none hidden, none in linked folders.

    ValueError: there are none.
    """

    def fail(error: OSError) -> NoReturn:
        raise ValueError(f"{error.filename}: {error.strerror}")

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [n for n in names if PurePath(n).suffix.lower() in SUFFIXES and n[0] != "."]
        found += [Path(parent, name) for name in images]
    if not found:
        raise ValueError(f"{folder}: no image files in it ({' '.join(sorted(SUFFIXES))})")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def pictures_of(path: Path) -> list[Path]:
    """An image file, or all below a folder. ValueError: there are none."""
    return image_files(path) if path.is_dir() else [path]


# Classes of images

Labels = dict[str, Indices]
"""By split: the class index of each image."""


def find_labels(
    source: Path, found: Scanned, known: Sequence[str] | None = None
) -> tuple[Labels, tuple[str, ...]]:
    """The class index of each image of a scanned source, and the names of the classes.

    known: the classes of a flow. None: integers in their order, texts in that of the alphabet.
    ValueError: an image has no class, or none of the known ones, or train lacks one.
    """
    labels = _read_labels(source, found)
    names = {split: [*map(str, each.tolist())] for split, each in labels.items()}
    if known is None:
        known = [*map(str, np.unique(np.concatenate([*labels.values()])).tolist())]
        if len(known) < 2:
            raise ValueError(f"data.classes: {source}: all images have the class {known[0]!r}")
        if unseen := sorted({*known} - {*names["train"]}):
            raise ValueError(f"data.classes: {source}: train has no image of {unseen[0]!r}")
    if others := sorted({name for each in names.values() for name in each} - {*known}):
        raise ValueError(f"data.classes: {source}: {others[0]!r} is no class of the flow")
    index = {name: i for i, name in enumerate(known)}
    indices = {split: np.array([index[name] for name in each]) for split, each in names.items()}
    return indices, tuple(known)


def _read_labels(source: Path, found: Scanned) -> dict[str, Values]:
    """By split: the label of each image, integers or texts.

    Of an image file: its line "file,label" in labels.csv in the source, or else the name of the top
    folder within the split. Of the images in x.npy: x-labels.npy.
    """
    listed = None
    if (table := source / "labels.csv").exists():
        with table.open(newline="", encoding="utf-8-sig") as file:
            listed = {row[0].strip(): row[-1].strip() for row in csv.reader(file) if row}
    labels: dict[str, Values] = {}
    complaints = []
    for split, root in found.roots.items():
        if root.is_dir():
            names = []
            for path in found.files[split]:
                inner = path.relative_to(root).parts
                name = inner[0] if len(inner) > 1 else ""
                if listed is not None:
                    name = listed.get(path.relative_to(source).as_posix(), "")
                if not name:
                    complaints.append(f"data.classes: {path}: has no class")
                names.append(name)
            labels[split] = np.array(names)
        else:
            path = root.with_name(f"{root.stem}-labels.npy")
            labels[split] = open_npy(path)
            if labels[split].shape != (len(found.splits[split]),):
                raise ValueError(f"data.classes: {path}: not one label for each image")
            if labels[split].dtype.kind not in "iuU":
                raise ValueError(f"data.classes: {path}: neither integers nor texts")
    refuse(complaints)
    return labels
