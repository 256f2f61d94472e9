"""The user's own images: an .npy file, a folder of .npy files, or folders of image files."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NoReturn, TypeVar

import numpy as np

from realnvp.config.fields import AS_FOUND, DecodeOptions
from realnvp.data.crops import ReadPictures
from realnvp.data.dataset import LazyArray, Pixels, Shape, decoded, digest
from realnvp.data.images import (
    check_levels,
    look_at,
    read_as,
    read_image,
    refuse,
    smallest_side,
    to_size,
)
from realnvp.data.prepared import open_npy

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


def scan(
    source: Path,
    *,
    levels: int,
    reading: DecodeOptions = AS_FOUND,
    crop: int | None = None,
    resize: int | None = None,
) -> Scanned:
    """The splits of a source, at least train. Every file is read once.

    levels: gray levels. 256: as many as the files have, 65,536 for 16 bits.
    crop: side of crops of pictures of any size. None: all images have one size.
    resize: length that the shorter side of image files is scaled to, before the middle square, or
        crops, are taken.

    ValueError: all files that cannot be read or differ from most.
    """
    arrays = npy_files(source)
    if not arrays:
        return _scan_pictures(source, levels, reading, crop, resize)
    if resize:
        raise ValueError(f"data.resize: is for image files; {source} holds arrays")
    return _scan_arrays(arrays, levels, reading, crop)


def npy_files(source: Path) -> dict[str, Path]:
    """The .npy file of each split. {}: a folder without any."""
    if source.is_file() and source.suffix.lower() == ".npy":
        return {"train": source}
    if not source.is_dir():
        raise ValueError(f"{source}: neither a folder nor an .npy file")
    return split_entries({path.stem: path for path in source.glob("*.npy")}, source)


def _scan_pictures(
    source: Path, levels: int, reading: DecodeOptions, crop: int | None, resize: int | None
) -> Scanned:
    """The splits of a folder of image files."""
    folders = split_entries({path.name: path for path in source.iterdir() if path.is_dir()}, source)
    files = {split: image_files(path) for split, path in (folders or {"train": source}).items()}

    def load(path: Path) -> Pixels:
        pixels = read_image(path, reading)
        if resize:
            return smallest_side(pixels, resize) if crop else to_size(pixels, resize=(resize,))
        return pixels

    def look(path: Path) -> Look:
        pixels = load(path)
        check_levels(pixels, levels_for(pixels.dtype, levels), name=path)
        return pixels.shape, pixels.dtype, digest(pixels)

    paths = [path for split in files for path in files[split]]
    looks = look_at(paths, look)
    shape, dtype = common_shape(paths, looks, crop)
    known = {path: each for path, each in zip(paths, looks, strict=True) if isinstance(each, tuple)}

    def read(paths: Sequence[Path], index: int) -> Pixels:
        pixels = load(paths[index])
        if digest(pixels) != known[paths[index]][2]:
            raise ValueError(f"{paths[index]}: changed while it was read")
        return pixels

    splits: dict[str, Any] = {}
    for split, inside in files.items():
        if crop:
            sizes = np.array([known[path][0][:2] for path in inside])
            splits[split] = ReadPictures(sizes, partial(read, inside))
        else:
            splits[split] = decoded(len(inside), partial(read, inside))
    digests = [known[path][2] for path in files["train"]]
    return Scanned(splits, files, shape, _known_levels(dtype, levels), digests, bool(folders))


def _scan_arrays(
    paths: dict[str, Path], levels: int, reading: DecodeOptions, crop: int | None
) -> Scanned:
    """The splits in .npy files."""
    arrays = {split: open_images(path) for split, path in paths.items()}
    digests: list[bytes] = []

    def look(split: str) -> Look:
        array = arrays[split]
        for image in array:
            if reading.bit_depth is None:
                check_levels(image, levels_for(array.dtype, levels), name=paths[split])
            if split == "train":
                digests.append(digest(image))
        first = read_as(reading, array[0])
        return first.shape, first.dtype, b""

    shape, dtype = common_shape([*paths.values()], look_at([*paths], look), crop)
    splits: dict[str, Any] = {}
    for split, array in arrays.items():
        read = partial(_read_array, reading, array)
        if crop:
            splits[split] = ReadPictures(np.tile(array.shape[1:3], (len(array), 1)), read)
        else:
            splits[split] = LazyArray(len(array), read) if reading.chosen() else array
    files = {split: [path] for split, path in paths.items()}
    return Scanned(splits, files, shape, _known_levels(dtype, levels), digests)


def _read_array(reading: DecodeOptions, array: Pixels, wanted: Any) -> Pixels:
    return read_as(reading, array[wanted])


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
    paths: Sequence[Path], looks: Sequence[Look | ValueError], crop: int | None = None
) -> tuple[Shape, "np.dtype[Any]"]:
    """(C, H, W), or (C, crop, crop), and the dtype that all images have.

    ValueError: all files that could not be read, differ from most or are smaller than the crop.
    """

    def kind(look: Look) -> tuple[Any, ...]:
        (height, width, channels), dtype, _ = look
        return (channels, str(dtype)) if crop else (height, width, channels, str(dtype))

    counts = Counter(kind(look) for look in looks if isinstance(look, tuple))
    most = max(counts, key=lambda each: counts[each], default=())
    complaints = []
    for path, look in zip(paths, looks, strict=True):
        if isinstance(look, ValueError):
            complaints.append(str(look))
        elif kind(look) != most:
            complaints.append(f"{path}: is {_words(kind(look))}, most are {_words(most)}")
        elif crop and min(look[0][:2]) < crop:
            complaints.append(f"{path}: {look[0][0]}x{look[0][1]} is too small for crop {crop}")
    refuse(complaints)
    (height, width, channels), dtype, _ = next(each for each in looks if isinstance(each, tuple))
    return (channels, crop or height, crop or width), dtype


def _words(kind: tuple[Any, ...]) -> str:
    *size, channels, dtype = kind
    return f"{'x'.join(map(str, size))} {channels} channels {dtype}".strip()


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted by relative path; none hidden, none in linked folders.

    ValueError: there are none.
    """

    def fail(error: OSError) -> NoReturn:
        raise ValueError(f"{error.filename}: {error.strerror}")

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if is_image(name) and name[0] != "."]
    if not found:
        raise ValueError(f"{folder}: no image files in it ({' '.join(sorted(SUFFIXES))})")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def pictures_of(path: Path) -> list[Path]:
    """An image file, or all below a folder. ValueError: there are none."""
    return image_files(path) if path.is_dir() else [path]


def is_image(name: str) -> bool:
    """Whether the suffix of a file name is an image's."""
    return PurePath(name).suffix.lower() in SUFFIXES


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
