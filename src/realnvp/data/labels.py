"""Classes of images: the names of subfolders, or a file of labels beside arrays."""

import csv
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realnvp.data.crops import Crops
from realnvp.data.dataset import SPLITS, Indices, Split
from realnvp.data.folder import Scanned, npy_files
from realnvp.data.images import refuse
from realnvp.data.prepared import open_npy

Labels = dict[str, Indices]
"""By split: the class index of each image."""
Names = dict[str, list[str]]
"""By split: the class name of each image."""
HEADERS = frozenset(["label", "labels", "class", "classes", "target"])
INTEGER = re.compile(r"-?(0|[1-9]\d*)")


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
    table = source / "labels.csv"
    listed = _read_table(table) if table.exists() else None
    names: Names = {}
    complaints: list[str] = []
    for split, files in found.files.items():
        names[split] = []
        for file in files:
            parts = file.relative_to(source).parts
            inner = parts[1:] if found.in_folders else parts
            if listed is not None:
                name, why = listed.get("/".join(parts), ""), f"is not in {table.name}"
            else:
                name, why = inner[0] if len(inner) > 1 else "", "is in no folder of a class"
            if not name:
                complaints.append(f"data.classes: {file}: {why}")
            names[split].append(name)
    refuse(complaints)
    return names


def _read_table(path: Path) -> dict[str, str]:
    """Class by file, of lines "file,class"."""
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        if len(line) != 2:
            raise ValueError(f"{path}: row {number}: expected a file and its class")
    return {line[0]: line[1] for line in lines}


def _of_arrays(source: Path, found: Scanned) -> Names:
    """The classes of the images in .npy files: one file of labels for all, or one for each."""
    arrays = npy_files(source)
    folder = arrays["train"].parent
    for suffix in (".npy", ".csv"):
        together = folder / f"labels{suffix}"
        each = {
            split: path.with_name(f"{path.stem}-labels{suffix}") for split, path in arrays.items()
        }
        if together.exists():
            return _cut(together, _read_labels(together), found.splits)
        if each["train"].exists():
            names = {split: _read_labels(path) for split, path in each.items()}
            for split, path in each.items():
                _check_count(path, len(names[split]), len(found.splits[split]))
            return names
    raise ValueError(f"data.classes: {folder}: no labels.npy and no labels.csv beside the arrays")


def _cut(path: Path, labels: list[str], splits: Mapping[str, Split]) -> Names:
    """The labels of all splits, in the order train, validation, test, by split."""
    _check_count(path, len(labels), sum(map(len, splits.values())))
    names: Names = {}
    for split in SPLITS:
        if split in splits:
            count = len(splits[split])
            names[split], labels = labels[:count], labels[count:]
    return names


def _check_count(path: Path, labels: int, images: int) -> None:
    if labels != images:
        raise ValueError(f"data.classes: {path}: {labels} labels for {images} images")


def _read_labels(path: Path) -> list[str]:
    """The labels in an .npy file, or in the last column of a .csv."""
    if path.suffix == ".csv":
        return [line[-1] for line in _lines(path)]
    labels: Any = open_npy(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iubU":
        raise ValueError(f"{path}: {labels.dtype} {labels.shape}; expected integers or texts, (N,)")
    return [*map(str, labels.tolist())]


def _lines(path: Path) -> list[list[str]]:
    """The rows of a .csv without its header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None
    return lines[1:] if lines and lines[0][-1].lower() in HEADERS else lines
