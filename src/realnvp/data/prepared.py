"""A prepared data set: train.npy, test.npy, perhaps validation.npy, and dataset.json about them."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from realnvp.config import ContextColumn, ImageData
from realnvp.config.errors import reason
from realnvp.config.fields import DecodeOptions
from realnvp.data.crops import Crops, StoredPictures, in_order
from realnvp.data.dataset import SPLITS, CropView, Dataset, Split, Values, cut_rows
from realnvp.io.files import atomic_write
from realnvp.progress import track_slices

DESCRIPTION = "dataset.json"
BLOCK = 2**24  # bytes that are written at once
# numpy parses a header as Python, which CPython 3.11 cannot do in several threads at once.
_HEADERS = Lock()


def open_splits(
    folder: Path,
    *,
    val_fraction: float = ImageData.val_fraction,
    seed: int = 0,
    verify: Iterable[str] = (),
) -> Dataset:
    """Open the prepared data set in a folder; its arrays are memory-mapped.

    val_fraction, seed: cut validation off train if the folder has none.
    verify: the splits whose checksums are compared first.
    ValueError: a file is missing or damaged.
    """
    about = read_description(folder)
    present = [split for split in SPLITS if split in about["counts"]]
    stored: dict[str, Values] = {split: open_npy(folder / f"{split}.npy") for split in present}
    for split in {split if split in stored else "train" for split in verify}:
        path = folder / f"{split}.npy"
        if sha256(path) != about["sha256"][path.name]:
            raise ValueError(f"{path}: damaged, its checksum is not the one in {DESCRIPTION}")
    shape = tuple(about["shape"])
    splits: dict[str, Split] = dict(stored)
    labels: dict[str, Values] | None = about["labels"] and {
        split: np.array(each) for split, each in about["labels"].items()
    }
    train = stored["train"]
    if about["context"]:
        labels = {split: array[:, shape[0] :] for split, array in stored.items()}
        splits = {split: array[:, : shape[0]] for split, array in stored.items()}
    elif about["sizes"]:
        splits["train"] = Crops(StoredPictures(train, about["sizes"], shape[0]), about["crop"])
    elif "validation" not in stored:
        rows = cut_rows(len(train), val_fraction, ["validation"], seed=seed)
        splits |= {split: CropView(train, rows[split], shape[1:]) for split in rows}
        if labels:
            labels |= {split: labels["train"][rows[split]] for split in rows}
    elif about["train_shape"]:
        splits["train"] = CropView(train, np.arange(len(train)), shape[1:])
    return Dataset(
        name=about["name"],
        version=about["version"],
        levels=about["levels"],
        shape=shape,
        splits={split: splits[split] for split in SPLITS},
        groups=about["groups"],
        comparable=about["comparable"],
        columns=_as_tuple(about["columns"]),
        reading=DecodeOptions(**about["reading"]),
        crop=about["crop"],
        labels=labels,
        class_names=_as_tuple(about["class_names"]),
        context=_as_tuple(about["context"]),
        context_values=tuple(ContextColumn(**each) for each in about["context_values"]),
        folder=folder,
        sha256={f"{split}.npy": about["sha256"][f"{split}.npy"] for split in stored},
    )


def _as_tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def read_description(folder: Path) -> dict[str, Any]:
    """The fields of folder/dataset.json. ValueError: it is missing or damaged."""
    path = folder / DESCRIPTION
    try:
        about: dict[str, Any] = json.loads(path.read_bytes())
        if about["sha256"][DESCRIPTION] != checksum(about):
            raise ValueError("its own checksum differs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged: {reason(error)}") from None
    return about


def checksum(about: dict[str, Any]) -> str:
    """The checksum of a description itself, without the entry that holds it."""
    others = {name: digest for name, digest in about["sha256"].items() if name != DESCRIPTION}
    text = json.dumps(about | {"sha256": others}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def open_npy(path: Path) -> Values:
    """The array in an .npy file, memory-mapped and read-only.

    ValueError: the file is missing, damaged or empty.
    """
    try:
        with _HEADERS:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header, parsed as Python, can raise nearly anything
        raise ValueError(f"{path}: {reason(error)}") from None
    if not isinstance(array, np.ndarray) or not array.size:
        raise ValueError(f"{path}: not one array with something in it")
    return array


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_dataset(dataset: Dataset, about: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write a prepared folder, whole or not at all; returns the fields of its dataset.json.

    about: see `write_description`. ValueError: the folder holds something.
    """
    if folder.exists():
        if any(folder.iterdir()):
            raise ValueError(f"{folder}: is not empty")
        folder.rmdir()
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for split, images in dataset.splits.items():
            _write_split(dataset, split, images, partial / f"{split}.npy")
        fields = write_description(dataset, about, partial)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return fields


def write_description(dataset: Dataset, about: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write dataset.json beside the arrays of a data set, and return its fields.

    about: name, source, val_fraction, seed, and how the arrays were made.
    """
    names = ["version", "levels", "shape", "columns", "train_shape", "counts", "groups"]
    names += ["comparable", "crop", "class_names", "context"]
    fields = {**about, **{name: getattr(dataset, name) for name in names}}
    fields["context_values"] = [asdict(column) for column in dataset.context_values]
    fields["reading"] = dataset.reading.chosen()
    train = dataset.splits["train"]
    fields["sizes"] = train.pictures.sizes.tolist() if isinstance(train, Crops) else None
    labels = None if dataset.context else dataset.labels
    fields["labels"] = labels and {split: each.tolist() for split, each in labels.items()}
    arrays = [f"{split}.npy" for split in dataset.splits]
    fields["sha256"] = {name: sha256(folder / name) for name in arrays}
    fields = json.loads(json.dumps(fields))  # tuples become lists
    fields["sha256"][DESCRIPTION] = checksum(fields)
    with atomic_write(folder / DESCRIPTION) as file:
        file.write(json.dumps(fields, indent=1).encode())
    return fields


def npy_header(shape: tuple[int, ...], kind: str) -> bytes:
    """The first bytes of an .npy file; kind: "|u1" is uint8, "<u2" uint16, "<f8" float64."""
    from io import BytesIO

    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def _write_split(dataset: Dataset, split: str, images: Split, path: Path) -> None:
    """Write a split as .npy: (N, H, W, C) of images, (N, D + k) of rows with their context.

    Training pictures of any size become one flat array.
    """
    levels = dataset.levels
    kind = "<f8" if levels is None else "|u1" if levels <= 256 else "<u2"
    with atomic_write(path) as file:
        if isinstance(images, Crops) and split == "train":
            pixels = int(images.pictures.sizes.prod(1).sum())
            file.write(npy_header((pixels * dataset.shape[0],), kind))
            blocks: Iterator[Values] = in_order(images.pictures)
        else:
            context = dataset.labels[split] if dataset.context and dataset.labels else None
            first = images[:1] if context is None else np.hstack([images[:1], context[:1]])
            file.write(npy_header((len(images), *first.shape[1:]), kind))
            blocks = _blocks(images, context, max(1, BLOCK // first.nbytes), split)
        for block in blocks:
            file.write(np.ascontiguousarray(block, kind).tobytes())


def _blocks(images: Split, context: Values | None, size: int, name: str) -> Iterator[Values]:
    """A split in blocks, so that memory stays bounded."""
    for part in track_slices(len(images), size, name):
        block = images[part]
        yield block if context is None else np.hstack([block, context[part]])
