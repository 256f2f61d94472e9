"""The user's own images: .npy files, or folders of image files; and the class of each image."""

import csv
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NoReturn

import numpy as np

from realnvp.config.fields import ImageData
from realnvp.data.dataset import (
    SPLITS,
    Crops,
    Dataset,
    Indices,
    Pictures,
    Pixels,
    Values,
    cut_rows,
    digest,
    open_npy,
    take,
)
from realnvp.data.images import (
    check_levels,
    read_as,
    read_image,
    scan_files,
    smallest_side,
    to_size,
)

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jxl"]
)
SPLIT_NAMES = {name: name for name in SPLITS} | {"valid": "validation", "val": "validation"}
Look = tuple[tuple[int, ...], "np.dtype[Any]", bytes]
"""Shape, (H, W, C), dtype and digest of an image."""
MAX_CROPS = 64  # fixed crops of one picture


def own_images(config: ImageData, source: Path, *, seed: int | None = None) -> Dataset:
    """The images of a source; every image is read and checked once.

    seed: for the splits that the source lacks. None: they are other data than a flow's.
    ValueError: an image cannot be read, or has another shape or depth than the first.
    """
    roots = split_roots(source)
    files: dict[str, Sequence[Path]] = {}
    splits: dict[str, Any] = {}
    for split, root in roots.items():
        images: Any = image_files(root) if root.is_dir() else open_images(root)
        files[split] = images if root.is_dir() else [root] * len(images)
        splits[split] = Pictures(len(images), partial(_read, config, images))
    looks = {split: _scan(config, files[split], images) for split, images in splits.items()}
    first, dtype, _ = looks["train"][0]
    start = 2 if config.crop else 0  # crops have the channels in common
    for split, each in looks.items():
        for file, (shape, depth, _) in zip(files[split], each, strict=True):
            if (shape[start:], depth) != (first[start:], dtype):
                raise ValueError(f"{file}: is {shape}, {depth}; the first is {first}, {dtype}")
    height, width, channels = first
    sizes: dict[str, Any] = {
        split: np.array([shape[:2] for shape, _, _ in each]) for split, each in looks.items()
    }
    labels: dict[str, Any] | None = None
    class_names, groups = config.class_names, {}
    if config.classes or class_names:
        try:
            labels, class_names = find_labels(source, roots, files, class_names)
        except ValueError as error:
            if seed is not None:
                raise
            warnings.warn(f"{error}: classes are ignored", stacklevel=3)
    if seed is not None:
        equal = [key for _, _, key in looks["train"]]
        rows = cut_rows(splits, config.val_fraction, seed=seed, equal=equal, source=source)
        splits, sizes, labels = take(splits, rows), take(sizes, rows), labels and take(labels, rows)
    if side := config.crop:
        for split, images in splits.items():
            most_crops = None if split == "train" and seed is not None else MAX_CROPS
            splits[split] = Crops(images, sizes[split], side, most=most_crops)
            groups[split] = splits[split].groups
        labels = labels and {split: labels[split][each] for split, each in groups.items()}
    return Dataset(
        name=str(source) if seed is None else config.set,
        levels=levels_for(dtype, config.levels),
        shape=(channels, side or height, side or width),
        splits=splits,
        groups={split: each.tolist() for split, each in groups.items()} or None,
        reading=config.decode_options,
        crop=side,
        sizes=sizes["train"].tolist() if side else None,
        labels=labels,
        class_names=class_names if labels else None,
    )


def _scan(config: ImageData, files: Sequence[Path], images: Pictures) -> list[Look]:
    """Shape, dtype and digest of each image. ValueError: it is too small, or beyond the levels."""

    def look(index: int) -> Look:
        file, pixels = files[index], images[index]
        check_levels(pixels, levels_for(pixels.dtype, config.levels), name=file)
        if config.crop and min(pixels.shape[:2]) < config.crop:
            raise ValueError(f"{file}: {pixels.shape[:2]} is too small for crop {config.crop}")
        return pixels.shape, pixels.dtype, digest(pixels)

    return scan_files(range(len(images)), look)


def _read(config: ImageData, images: Pixels | Sequence[Path], index: int) -> Pixels:
    """An image as `config` wants it."""
    image = images[index]
    pixels = read_image(image, config) if isinstance(image, Path) else read_as(config, image)
    if not config.resize:
        return pixels
    if config.crop:
        return smallest_side(pixels, config.resize)
    return to_size(pixels, [config.resize])


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


def image_files(path: Path) -> list[Path]:
    """The image files below a folder, sorted by relative path; none hidden, none in linked folders.

    Of a file: the file itself. ValueError: there are none.
    """

    def fail(error: OSError) -> NoReturn:
        raise error

    if not path.is_dir():
        return [path]
    found: list[Path] = []
    for parent, folders, names in os.walk(path, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [n for n in names if PurePath(n).suffix.lower() in SUFFIXES and n[0] != "."]
        found += [Path(parent, name) for name in images]
    if not found:
        raise ValueError(f"{path}: no image files in it ({' '.join(sorted(SUFFIXES))})")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def find_labels(
    source: Path,
    roots: Mapping[str, Path],
    files: Mapping[str, Sequence[Path]],
    known: Sequence[str] | None,
) -> tuple[dict[str, Indices], tuple[str, ...]]:
    """By split: the class index of each image; and the names of the classes.

    known: the classes of a flow. None: integers in their order, texts in that of the alphabet.
    ValueError: an image has no class, or none of the known ones, or train lacks one.
    """
    labels = _read_labels(source, roots, files)
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


def _read_labels(
    source: Path, roots: Mapping[str, Path], files: Mapping[str, Sequence[Path]]
) -> dict[str, Values]:
    """By split: the label of each image, integers or texts.

    Of an image file: its line "file,label" in labels.csv in the source, or else the name of the top
    folder within the split. Of the images in x.npy: x-labels.npy.
    """
    listed = None
    if (table := source / "labels.csv").exists():
        with table.open(newline="", encoding="utf-8-sig") as file:
            listed = {row[0].strip(): row[-1].strip() for row in csv.reader(file) if row}
    labels: dict[str, Values] = {}
    for split, root in roots.items():
        if root.is_dir():
            if listed is None:
                inner = [path.relative_to(root).parts for path in files[split]]
                names = [parts[0] if len(parts) > 1 else "" for parts in inner]
            else:
                paths = [path.relative_to(source).as_posix() for path in files[split]]
                names = [listed.get(path, "") for path in paths]
            if "" in names:
                path = files[split][names.index("")]
                raise ValueError(f"data.classes: {path}: has no class")
            labels[split] = np.array(names)
        else:
            path = root.with_name(f"{root.stem}-labels.npy")
            labels[split] = open_npy(path)
            one_each = labels[split].shape == (len(files[split]),)
            if not one_each or labels[split].dtype.kind not in "iuU":
                raise ValueError(f"data.classes: {path}: not an integer or text for each image")
    return labels
