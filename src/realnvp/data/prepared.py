"""A prepared data set: train.npy, test.npy, perhaps validation.npy, and dataset.json about them.

The arrays are memory-mapped. Levels are None for a table, whose numbers are real.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np

from realnvp.config import ContextColumn, ImageData, embed_context, parse_json
from realnvp.config.errors import reason
from realnvp.config.fields import BitDepth, ColorMode, DecodeOptions
from realnvp.data.crops import Crops, Pictures, StoredPictures, in_order
from realnvp.data.dataset import SPLITS, Dataset, Pixels, Rows, Split, Values, cut_rows
from realnvp.data.images import MAX_PIXELS, RefusedImage
from realnvp.io.files import atomic_save, parse_record
from realnvp.progress import chunks, progress

DESCRIPTION = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What dataset.json says of the arrays beside it; a preparation adds how it made them."""

    name: str
    version: str | None
    source: str | None
    val_fraction: float | None
    seed: int
    comparable: bool
    levels: int | None
    shape: tuple[int, ...]
    train_shape: tuple[int, ...] | None
    counts: dict[str, int]
    groups: dict[str, Any] | None
    """Lists of integers, one an image: too many to be checked one by one as a type."""
    sha256: dict[str, str]
    columns: tuple[str, ...] | None = None
    crop: int | None = None
    """The side of crops; train.npy then holds the pixels of all pictures, one after the other."""
    sizes: Any = None
    """With crops: height and width of each training picture."""
    background: str | None = None
    color_mode: ColorMode | None = None
    bit_depth: BitDepth | None = None

    labels: dict[str, Any] | None = None
    """By split: the class of each image, as groups are."""
    class_names: tuple[str, ...] | None = None
    context: tuple[str, ...] | None = None
    """Names of a table's given columns; their numbers follow the columns in the arrays."""
    context_values: tuple[ContextColumn, ...] = ()

    @property
    def numbers_given(self) -> int:
        """How many numbers of given columns a row has."""
        return len(embed_context(self.context_values))

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Of the arrays: uint8, uint16 of more than 256 levels, or a table's float64."""
        if self.levels is None:
            return np.dtype(np.float64)
        return np.dtype(np.uint8 if self.levels <= 256 else "<u2")

    def array_shape(self, split: str) -> tuple[int | None, ...]:
        """Of the array of a split."""
        if split == "train" and self.crop:
            return (sum(height * width for height, width in self.sizes) * self.shape[0],)
        channels, *size = self.train_shape if split == "train" and self.train_shape else self.shape
        return (self.counts.get(split), *size, channels + self.numbers_given)


def open_splits(
    folder: Path,
    *,
    val_fraction: float = ImageData.val_fraction,
    seed: int = 0,
    verify: Iterable[str] = (),
) -> Dataset:
    """Open the prepared data set in a folder.

    val_fraction, seed: without a validation split, the seed cuts this share of train off for it.
    verify: the splits whose checksums are compared first.
    ValueError names the file that is missing, damaged, or not what dataset.json says.
    """
    read_description(folder)
    about = parse_json(Description, (folder / DESCRIPTION).read_bytes(), folder / DESCRIPTION)
    present = [split for split in SPLITS if split != "validation" or split in about.counts]
    stored: dict[str, Values] = {split: open_npy(folder / f"{split}.npy") for split in present}
    doubted = {split if split in stored else "train" for split in verify}
    dtype = about.dtype
    for split, array in stored.items():
        path, expected = folder / f"{split}.npy", about.array_shape(split)
        if array.shape != expected or array.dtype != dtype:
            raise ValueError(
                f"{path}: {array.dtype} {array.shape}, but {DESCRIPTION} says {dtype} {expected}"
            )
        if split in doubted and sha256(path) != about.sha256.get(path.name):
            raise ValueError(f"{path}: its checksum is not the one in {DESCRIPTION}")
        if about.levels is not None:
            check_levels(array, about.levels, path=path)
    splits: dict[str, Split] = dict(stored)
    train, middle = stored["train"], about.shape[1:]
    if about.crop:
        splits["train"] = Crops(StoredPictures(train, about.sizes, about.shape[0]), about.crop)
    elif "validation" not in stored:
        rows = cut_rows(len(train), val_fraction, ["validation"], seed=seed)
        splits |= {split: Rows(train, rows[split], middle) for split in rows}
    elif about.train_shape:
        splits["train"] = Rows(train, np.arange(len(train)), middle)
    labels = about.labels and {split: np.array(each) for split, each in about.labels.items()}
    if about.context:
        columns = about.shape[0]
        labels = {split: array[:, columns:] for split, array in stored.items()}
        splits = {split: array[:, :columns] for split, array in stored.items()}
    if labels and "validation" not in stored:
        labels |= {split: labels["train"][rows[split]] for split in rows}
    return Dataset(
        name=about.name,
        version=about.version,
        levels=about.levels,
        shape=about.shape,
        splits={split: splits[split] for split in SPLITS},
        groups=about.groups,
        comparable=about.comparable,
        columns=about.columns,
        reading=DecodeOptions(
            background=about.background, color_mode=about.color_mode, bit_depth=about.bit_depth
        ),
        crop=about.crop,
        labels=labels,
        class_names=about.class_names,
        context=about.context,
        context_values=about.context_values,
        folder=folder,
        sha256={f"{split}.npy": about.sha256[f"{split}.npy"] for split in stored},
    )


def read_description(folder: Path) -> dict[str, Any]:
    """The fields of folder/dataset.json, checked; ValueError names the file and the field."""
    path = folder / DESCRIPTION
    text = path.read_bytes()
    known, about = parse_record(Description, text, path), json.loads(text)
    rules = {
        "levels": known.levels is None or 2 <= known.levels <= 2**16,
        "shape": len(known.shape) == (1 if known.levels is None else 3),
        "columns": (known.columns and (len(known.columns),))
        == (known.shape if len(known.shape) == 1 else None),
        "crop": not known.crop or known.shape[1:] == (known.crop, known.crop),
        "sizes": not known.crop or _sizes(known.sizes, known.crop, known.counts),
        "train_shape": known.train_shape is None or len(known.train_shape) == 3,
        "groups": all(
            _labels(labels, known.counts.get(split))
            for split, labels in (known.groups or {}).items()
        ),
        "labels": (known.labels is None) == (known.class_names is None)
        and all(
            _labels(labels, known.counts.get(split))
            and all(0 <= label < len(known.class_names or ()) for label in labels)
            for split, labels in (known.labels or {}).items()
        ),
        "context_values": len(known.context or ()) == len(known.context_values),
        "sha256": {*known.sha256} - {DESCRIPTION} == {f"{split}.npy" for split in known.counts},
    }
    if wrong := next((name for name, holds in rules.items() if not holds), None):
        raise ValueError(f"{path}: {wrong} is missing or makes no sense")
    if about["sha256"].get(DESCRIPTION, own := checksum(about)) != own:
        raise ValueError(f"{path}: damaged, its own checksum does not fit")
    return about


def checksum(about: dict[str, Any]) -> str:
    """The checksum of a description itself, which it lists beside the checksums of the arrays."""
    others = {name: digest for name, digest in about["sha256"].items() if name != DESCRIPTION}
    return hashlib.sha256(
        json.dumps(about | {"sha256": others}, sort_keys=True).encode()
    ).hexdigest()


def _labels(labels: Any, count: Any) -> bool:
    return (
        isinstance(labels, list)
        and len(labels) == count
        and all(type(label) is int for label in labels)
    )


def _sizes(sizes: Any, crop: int, counts: dict[str, int]) -> bool:
    """Whether they are sizes of pictures that so many crops fit into."""
    return (
        isinstance(sizes, list)
        and all(isinstance(size, list) and len(size) == 2 for size in sizes)
        and all(type(side) is int and crop <= side <= MAX_PIXELS for size in sizes for side in size)
        and {"validation", "test"} < counts.keys()
        and sum((high // crop) * (wide // crop) for high, wide in sizes) == counts["train"]
    )


# numpy parses a header as Python, which CPython 3.11 cannot do in several threads at once.
_HEADERS = Lock()


def open_npy(path: Path) -> Values:
    """The array in an .npy file, memory-mapped and read-only.

    ValueError names a missing, damaged or empty file.
    """
    try:
        with _HEADERS:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header is parsed as Python: it can raise nearly anything
        raise ValueError(f"{path}: {reason(error)}") from None
    if not isinstance(array, np.ndarray) or not array.size:
        raise ValueError(f"{path}: not one array with something in it")
    return array


def check_levels(images: Pixels, levels: int, *, path: Path) -> None:
    """Check that all pixels of an array are below `levels`; ValueError names the path.

    They are read in blocks, so that memory stays bounded.
    """
    checked = levels <= np.iinfo(images.dtype).max
    for chunk in chunks(len(images) if checked else 0, max(1, 2**24 // images[0].size)):
        if (largest := int(images[chunk].max())) >= levels:
            raise RefusedImage(
                path,
                f"has a pixel of {largest}, data.levels = {levels} allows 0 .. {levels - 1}",
                several="pixels beyond data.levels",
            )


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Even a small image takes a few kilobytes while it is read, so images are counted, too.
BLOCK_BYTES, BLOCK_IMAGES = 2**24, 2**13


def write_dataset(
    dataset: Dataset, about: dict[str, Any], folder: Path, *, keep: bool = False
) -> dict[str, Any]:
    """Write a prepared folder; returns its dataset.json: `about`, and what the data set says.

    keep: go on where an interrupted call stopped. The files there must be of this data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: folder / f"{split}.npy" for split in dataset.splits}
    for split, path in files.items():
        images, shape = dataset.splits[split], dataset.shape
        if dataset.context and dataset.labels:
            images = np.concatenate([images[:], dataset.labels[split]], axis=1)
            shape = images.shape[1:]
        if isinstance(images, Crops) and split == "train":
            _save_pictures(images.pictures, dataset, path)
        elif not (keep and path.exists()):
            _save_split(
                images,
                dataset.train_shape if split == "train" and dataset.train_shape else shape,
                path,
                kind=_kind(dataset),
                keep=keep,
            )
    return write_description(dataset, about, folder)


def write_description(dataset: Dataset, about: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write dataset.json beside the arrays of a data set, and return its fields.

    about: name, source, val_fraction, seed, and how the arrays were made.
    """
    names = [f"{split}.npy" for split in dataset.splits]
    about = about | {
        "version": dataset.version,
        "levels": dataset.levels,
        "shape": dataset.shape,
        "columns": dataset.columns,
        "train_shape": dataset.train_shape,
        "counts": dataset.counts,
        "groups": dataset.groups,
        "comparable": dataset.comparable,
        "sha256": {name: sha256(folder / name) for name in names},
    }
    if dataset.crop and isinstance(dataset.train, Crops):
        about |= {"crop": dataset.crop, "sizes": dataset.train.pictures.sizes.tolist()}
    if dataset.context:
        about |= {
            "context": dataset.context,
            "context_values": [asdict(each) for each in dataset.context_values],
        }
    elif dataset.labels is not None:
        about["labels"] = {split: each.tolist() for split, each in dataset.labels.items()}
        about["class_names"] = dataset.class_names
    about["sha256"][DESCRIPTION] = checksum(about)
    # Written last: a folder with it is complete.
    atomic_save(folder / DESCRIPTION, lambda file: file.write(json.dumps(about, indent=1).encode()))
    return about


def _kind(dataset: Dataset) -> str:
    """The numbers of a data set's arrays, as numpy's headers call them."""
    return "<f8" if dataset.levels is None else "|u1" if dataset.levels <= 256 else "<u2"


def npy_header(shape: tuple[int, ...], kind: str) -> bytes:
    """The first bytes of an .npy file; kind: "|u1" is uint8, "<u2" uint16, "<f8" float64."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def _save_pictures(pictures: Pictures, dataset: Dataset, path: Path) -> None:
    """Write pictures of any sizes as one flat .npy. OSError: the disk is full."""
    kind, count = _kind(dataset), int(pictures.sizes.prod(1).sum()) * dataset.shape[0]

    def write(file: BinaryIO) -> None:
        file.write(npy_header((count,), kind))
        for picture in in_order(pictures):
            file.write(picture.astype(kind, copy=False).tobytes())

    atomic_save(path, write, size=count * np.dtype(kind).itemsize)


def _save_split(split: Split, shape: Sequence[int], path: Path, *, kind: str, keep: bool) -> None:
    """Write a split as .npy, (N, H, W, C) of images or (N, D) of rows.

    In blocks, so that memory stays bounded. OSError: the disk is full.
    """
    channels, *size = shape
    each = math.prod(shape) * np.dtype(kind).itemsize
    rows = max(1, min(BLOCK_IMAGES, BLOCK_BYTES // each))
    header = npy_header((len(split), *size, channels), kind)
    begin, block = len(header), rows * each

    def write(file: BinaryIO) -> None:
        # A block is flushed before the next begins: all but the last survive a loss of power.
        done = max(0, (file.seek(0, os.SEEK_END) - begin) // block - 1)
        file.truncate(begin + done * block if done else 0)
        file.seek(0)
        file.write(header)
        file.seek(0, os.SEEK_END)
        with progress(path.stem, len(split), start=done * rows, enabled=keep) as report:
            for start in range(done * rows, len(split), rows):
                file.write(split[start : start + rows].astype(kind, copy=False).tobytes())
                if keep:
                    file.flush()
                    os.fsync(file.fileno())
                report(min(start + rows, len(split)), "images")

    atomic_save(path, write, size=begin + len(split) * each, keep=keep)
