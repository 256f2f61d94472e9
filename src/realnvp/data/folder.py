"""The user's own images: .npy files, or folders of image files; and the class of each image."""

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NoReturn, TypeVar

import numpy as np

from realnvp.config import ImageData
from realnvp.data.crops import Crops, ReadPictures
from realnvp.data.dataset import (
    SPLITS,
    Indices,
    LazyArray,
    Pixels,
    Shape,
    Split,
    decoded,
    digest,
    open_npy,
)
from realnvp.data.images import (
    check_levels,
    read_as,
    read_image,
    refuse,
    scan_files,
    smallest_side,
    to_size,
)

Part = TypeVar("Part")
Look = tuple[tuple[int, ...], "np.dtype[Any]", bytes]
"""(H, W, C), dtype and digest of an image."""
SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jxl"]
)
SHALLOW, DEEP = 2**8, 2**16  # gray levels of 8 and of 16 bits
SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
HEADERS = frozenset(["label", "labels", "class", "classes", "target"])
INTEGER = re.compile(r"-?(0|[1-9]\d*)")


@dataclass(frozen=True)
class Scanned:
    """The images of a source."""

    splits: dict[str, Any]
    """By name: images, or `ReadPictures` for crops."""
    files: dict[str, list[Path]]
    """By split: the file of each image, or the one .npy file of all."""
    shape: Shape
    """Of an image, or of a crop."""
    levels: int
    digests: list[bytes]
    """A key per training image; equal images have equal keys."""
    in_folders: bool = False
    """Whether each split has a folder of image files."""

    @property
    def arrays(self) -> bool:
        """Whether the images lie in .npy files."""
        return self.files["train"][0].suffix.lower() == ".npy"


def scan(source: Path, config: ImageData) -> Scanned:
    """The splits of a source, at least train, as `config` wants them. Every file is read once.

    ValueError: all files that cannot be read, or all that differ from most.
    """
    arrays = npy_files(source)
    if arrays and config.resize:
        raise ValueError(f"data.resize: is for image files; {source} holds arrays")
    return _scan_arrays(arrays, config) if arrays else _scan_pictures(source, config)


def npy_files(source: Path) -> dict[str, Path]:
    """The .npy file of each split. {}: a folder without any."""
    if source.is_file() and source.suffix.lower() == ".npy":
        return {"train": source}
    if not source.is_dir():
        raise ValueError(f"{source}: neither a folder nor an .npy file")
    return split_entries({path.stem: path for path in source.glob("*.npy")}, source)


def _scan_pictures(source: Path, config: ImageData) -> Scanned:
    """The splits of a folder of image files."""
    crop, resize = config.crop, config.resize
    folders = split_entries({path.name: path for path in source.iterdir() if path.is_dir()}, source)
    files = {split: image_files(path) for split, path in (folders or {"train": source}).items()}

    def load(path: Path) -> Pixels:
        pixels = read_image(path, config)
        if resize and crop:
            return smallest_side(pixels, resize)
        return to_size(pixels, resize=(resize,) if resize else None)

    def look(path: Path) -> Look:
        pixels = load(path)
        check_levels(pixels, levels_for(pixels.dtype, config.levels), name=path)
        return pixels.shape, pixels.dtype, digest(pixels)

    paths = [path for split in files for path in files[split]]
    looks = dict(zip(paths, scan_files(paths, look), strict=True))
    shape, dtype = common_shape(looks, crop)
    splits: dict[str, Any] = {}
    for split, inside in files.items():

        def read(index: int, inside: list[Path] = inside) -> Pixels:
            return load(inside[index])

        sizes = np.array([looks[path][0][:2] for path in inside])
        splits[split] = ReadPictures(sizes, read) if crop else decoded(len(inside), read)
    digests = [looks[path][2] for path in files["train"]]
    return Scanned(
        splits, files, shape, _known_levels(dtype, config.levels), digests, bool(folders)
    )


def _scan_arrays(paths: dict[str, Path], config: ImageData) -> Scanned:
    """The splits in .npy files."""
    arrays = {split: open_images(path) for split, path in paths.items()}
    looks: dict[Path, Look] = {}
    splits: dict[str, Any] = {}
    for split, array in arrays.items():
        read = partial(_read_array, config, array)
        looks[paths[split]] = read(0).shape, read(0).dtype, b""
        if config.bit_depth is None:
            for image in array:
                check_levels(image, levels_for(array.dtype, config.levels), name=paths[split])
        if config.crop:
            splits[split] = ReadPictures(np.tile(array.shape[1:3], (len(array), 1)), read)
        else:
            splits[split] = LazyArray(len(array), read) if config.chosen() else array
    shape, dtype = common_shape(looks, config.crop)
    files = {split: [path] for split, path in paths.items()}
    digests = [*map(digest, arrays["train"])]
    return Scanned(splits, files, shape, _known_levels(dtype, config.levels), digests)


def _read_array(config: ImageData, array: Pixels, wanted: Any) -> Pixels:
    return read_as(config, array[wanted])


def open_images(path: Path) -> Pixels:
    """The images of an .npy file, memory-mapped, (N, H, W, C)."""
    array = open_npy(path)
    images = array[..., None] if array.ndim == 3 else array
    if (
        array.dtype not in (np.uint8, np.uint16)
        or images.ndim != 4
        or images.shape[-1] not in (1, 3)
    ):
        raise ValueError(
            f"{path}: {array.dtype} of shape {array.shape}; expected uint8 or uint16 (N, H, W) or "
            "(N, H, W, C) with 1 or 3 channels"
        )
    return images


def levels_for(dtype: "np.dtype[Any]", asked: int) -> int:
    """Gray levels: those of the configuration, but 65,536 for 16 bits if it leaves 256."""
    return DEEP if dtype == np.uint16 and asked <= SHALLOW else asked


def _known_levels(dtype: "np.dtype[Any]", asked: int) -> int:
    """`levels_for`. ValueError: more levels than 8 bits hold."""
    if dtype == np.uint8 and asked > SHALLOW:
        raise ValueError(f"data.levels: {asked}, but the images have 8 bits (data.bit_depth)")
    return levels_for(dtype, asked)


def common_shape(
    looks: Mapping[Path, Look], crop: int | None = None
) -> tuple[Shape, "np.dtype[Any]"]:
    """(C, H, W), or (C, crop, crop), and the dtype that all images have.

    ValueError: all files that differ from most, or are smaller than the crop.
    """

    def kind(look: Look) -> str:
        (height, width, channels), dtype, _ = look
        return ("" if crop else f"{height}x{width}, ") + f"{channels} channels, {dtype}"

    most = Counter(map(kind, looks.values())).most_common(1)[0][0]
    complaints = []
    for path, look in looks.items():
        if kind(look) != most:
            complaints.append(f"{path}: is {kind(look)}; most are {most}")
        elif crop and min(look[0][:2]) < crop:
            complaints.append(f"{path}: {look[0][0]}x{look[0][1]} is too small for crop {crop}")
    refuse(complaints)
    (height, width, channels), dtype, _ = next(iter(looks.values()))
    return (channels, crop or height, crop or width), dtype


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


def split_entries(entries: dict[str, Path], source: Path) -> dict[str, Path]:
    """The entries of a folder that are named like a split. ValueError: there are, but no train."""
    found = {
        split: entries[name] for name, split in reversed(SPLIT_NAMES.items()) if name in entries
    }
    if found and "train" not in found:
        raise ValueError(f"{source}: holds {' and '.join(found)}, but no train")
    return found


def choose_split(splits: dict[str, Part], split: str, source: Path) -> tuple[dict[str, Part], str]:
    """The splits of a source, and the split to take: "all" if there is only train."""
    if set(splits) == {"train"}:
        return {"all": splits["train"]}, "all"
    if split not in splits:
        raise ValueError(f"{source}: has no {split} split, only {' and '.join(splits)}")
    return splits, split


# Classes of images

Labels = dict[str, Indices]  # by split: the class index of each image
Names = dict[str, list[str]]  # by split: the class name of each image


def find_labels(source: Path, found: Scanned) -> tuple[Labels, tuple[str, ...]]:
    """The class of each image of a scanned source, and the names of the classes.

    Image files: the name of the top folder within the split, or the line "file,class" of
    labels.csv in the source.
    Arrays: labels.npy or labels.csv beside them, for all images in the order train, validation,
    test; or train-labels.npy of train.npy, ...

    ValueError: an image has no class, or train lacks one.
    """
    names = _names(source, found)
    classes = {name for each in names.values() for name in each}
    numbers = found.arrays and all(INTEGER.fullmatch(name) for name in classes)
    known = sorted(classes, key=int) if numbers else sorted(classes)
    if len(known) < 2:
        raise ValueError(f"data.classes: {source}: all images have the class {known[0]!r}")
    if unseen := classes - {*names["train"]}:
        raise ValueError(f"data.classes: {source}: train has no image of {sorted(unseen)[0]!r}")
    return _indices(names, known), tuple(known)


def labels_among(
    source: Path, found: Scanned, splits: Mapping[str, Split], classes: Sequence[str]
) -> Labels | None:
    """The class index of each image, or crop, of other data than a flow's.

    None: there are no labels, or, with a warning, labels of other classes.
    """
    try:
        names = _names(source, found)
    except ValueError:
        return None
    if others := sorted({name for each in names.values() for name in each} - {*classes}):
        warnings.warn(
            f"{source}: {others[0]!r} is no class of the flow; the mixture of all is evaluated",
            stacklevel=4,
        )
        return None
    return of_crops(_indices(names, classes), splits)


def of_crops(labels: Mapping[str, Indices], splits: Mapping[str, Split]) -> Labels:
    """The class of each image; a crop has the class of its picture."""
    return {
        split: labels[split][each.groups] if isinstance(each, Crops) else labels[split]
        for split, each in splits.items()
    }


def _indices(names: Names, classes: Sequence[str]) -> Labels:
    index = {name: i for i, name in enumerate(classes)}
    return {split: np.array([index[name] for name in each]) for split, each in names.items()}


def _names(source: Path, found: Scanned) -> Names:
    return _of_arrays(source, found) if found.arrays else _of_files(source, found)


def _of_files(source: Path, found: Scanned) -> Names:
    """The class of each image file, bound by its path."""
    listed = None
    if (table := source / "labels.csv").exists():
        listed = {line[0]: line[-1] for line in _lines(table)}
    names: Names = {split: [] for split in found.files}
    complaints: list[str] = []
    for split, files in found.files.items():
        for file in files:
            path = file.relative_to(source)
            inner = path.parts[1:] if found.in_folders else path.parts
            name = inner[0] if len(inner) > 1 else ""
            if listed is not None:
                name = listed.get(path.as_posix(), "")
            if not name:
                where = f"not in {table.name}" if listed else "in no folder of a class"
                complaints.append(f"data.classes: {file}: {where}")
            names[split].append(name)
    refuse(complaints)
    return names


def _of_arrays(source: Path, found: Scanned) -> Names:
    """The classes of the images in .npy files: one file of labels for all, or one for each."""
    arrays = npy_files(source)
    counts = {split: len(found.splits[split]) for split in SPLITS if split in found.splits}
    folder = arrays["train"].parent
    for suffix in (".npy", ".csv"):
        if (together := folder / f"labels{suffix}").exists():
            labels = _read_labels(together, sum(counts.values()))
            ends = np.cumsum([*counts.values()])
            return {
                split: labels[end - counts[split] : end]
                for split, end in zip(counts, ends, strict=True)
            }
        each = {
            split: path.with_name(f"{path.stem}-labels{suffix}") for split, path in arrays.items()
        }
        if each["train"].exists():
            return {split: _read_labels(path, counts[split]) for split, path in each.items()}
    raise ValueError(f"data.classes: {folder}: no labels.npy and no labels.csv beside the arrays")


def _read_labels(path: Path, count: int) -> list[str]:
    """The labels in an .npy file, or in the last column of a .csv."""
    if path.suffix == ".csv":
        names = [line[-1] for line in _lines(path)]
    else:
        labels: Any = open_npy(path)
        if labels.ndim != 1 or labels.dtype.kind not in "iubU":
            raise ValueError(f"{path}: {labels.dtype} {labels.shape}, not integers or texts, (N,)")
        names = [*map(str, labels.tolist())]
    if len(names) != count:
        raise ValueError(f"data.classes: {path}: {len(names)} labels for {count} images")
    return names


def _lines(path: Path) -> list[list[str]]:
    """The rows of a .csv without its header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None
    return lines[1:] if lines and lines[0][-1].lower() in HEADERS else lines
