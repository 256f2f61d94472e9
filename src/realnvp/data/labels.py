"""Classes of images: the names of subfolders, or a file of labels beside arrays."""

import csv
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from realnvp.config.errors import count_of, listed
from realnvp.data.crops import Crops
from realnvp.data.dataset import SPLITS, Indices, Split, split_off
from realnvp.data.folder import image_files, split_entries
from realnvp.data.prepared import open_npy
from realnvp.data.tables import open_csv

Labels = Mapping[str, Indices]
"""The class of each image of each split, an index of the names."""
HEADERS = frozenset(["label", "labels", "class", "classes", "target"])


def find_labels(source: Path, counts: Mapping[str, int]) -> tuple[Labels, tuple[str, ...]]:
    """The class of each image of a folder or an .npy file, and the names of the classes.

    Image files: the class is the name of the folder in the split, or in the source where that has
    no splits; labels.csv in the source, with lines of file and class, goes before.
    Arrays: labels.npy or labels.csv beside them has a class for each image, in the order train,
    validation, test; or train-labels.npy for train.npy, ...

    counts: how many images each split has.
    ValueError names the file or folder that is missing or wrong.
    """
    words = _words(source, counts)
    names = sorted({word for each in words.values() for word in each})
    if len(names) < 2:
        raise ValueError(f"data.classes: {source}: all images are of one class, {names[0]!r}")
    if unseen := {*names} - {*words["train"]}:
        raise ValueError(
            f"data.classes: {source}: train has no image of {listed([*map(str, unseen)], 5)}"
        )
    return _indices(words, names), tuple(map(str, names))


def labels_among(
    source: Path, splits: Mapping[str, Split], names: Sequence[str]
) -> dict[str, Indices] | None:
    """The class of each image of other data than a flow's, among its classes.

    A crop has its picture's class.
    None: there are no labels, or labels of other classes, of which it warns.
    """
    pictures = {
        split: each.pictures if isinstance(each, Crops) else each for split, each in splits.items()
    }
    try:
        words = _words(source, {split: len(each) for split, each in pictures.items()})
    except ValueError:
        return None
    texts = {split: [*map(str, each)] for split, each in words.items()}
    if others := {word for each in texts.values() for word in each} - {*names}:
        warnings.warn(
            f"{source}: {listed(sorted(others), 3)}: no class of the flow; the mixture of all "
            "classes is evaluated",
            stacklevel=4,
        )
        return None
    return of_crops(_indices(texts, names), splits)


def of_crops(labels: Labels, splits: Mapping[str, Split]) -> dict[str, Indices]:
    """The class of each image, or crop, of each split, by the class of each picture."""
    return {
        split: labels[split][each.groups] if isinstance(each, Crops) else labels[split]
        for split, each in splits.items()
    }


def _indices(
    words: Mapping[str, Sequence[str | int]], names: Sequence[str | int]
) -> dict[str, Indices]:
    index = {name: i for i, name in enumerate(names)}
    return {split: np.array([index[word] for word in each]) for split, each in words.items()}


def _words(source: Path, counts: Mapping[str, int]) -> Mapping[str, list[str] | list[int]]:
    """The labels of the images of each split, as they are written."""
    words: Mapping[str, list[str] | list[int]]
    if source.is_file():
        words = _beside(source.parent, {"train": source.stem}, counts)
    elif arrays := split_entries({path.stem: path for path in source.glob("*.npy")}, source):
        words = _beside(source, {split: path.stem for split, path in arrays.items()}, counts)
    else:
        words = _of_files(source)
    for split, each in words.items():
        if len(each) != counts[split]:
            raise ValueError(
                f"data.classes: {source}: {count_of(len(each), 'label')} for "
                f"{count_of(counts[split], 'image')} of {split}"
            )
    return words


def cut_labels(labels: Labels, val_fraction: float, *, seed: int) -> dict[str, Indices]:
    """The labels of train, validation and test, as `cut_off` cuts the images."""
    splits = split_off(labels, val_fraction, seed=seed)
    return {name: np.asarray(split[:]) for name, split in splits.items()}


def _of_files(source: Path) -> dict[str, list[str]]:
    """The class of each image file of each split, in the order of `scan`."""
    folders = split_entries(
        {path.name: path for path in source.iterdir() if path.is_dir()}, source
    ) or {"train": source}
    listed_classes = dict(_of_table(source / "labels.csv"))
    found: dict[str, list[str]] = {}
    bad: list[str] = []
    for split, folder in folders.items():
        found[split] = []
        for file in image_files(folder):
            inner, name = file.relative_to(folder).parts, file.relative_to(source).as_posix()
            if listed_classes:
                word = listed_classes.get(name, "")
                why = "labels.csv does not name it"
            else:
                word, why = inner[0] if len(inner) > 1 else "", "is in no folder of a class"
            if not word:
                bad.append(f"{file}: {why}")
            found[split].append(word)
    if bad:
        raise ValueError(f"data.classes: {listed(bad, 3)}")
    return found


def _of_table(path: Path) -> Iterable[tuple[str, str]]:
    """File and class of each line of labels.csv, if it exists."""
    for number, line in enumerate(_lines(path) if path.exists() else [], 1):
        if len(line) != 2:
            raise ValueError(f"{path}: line {number}: expected a file and its class")
        yield line[0], line[1]


def _beside(
    folder: Path, stems: Mapping[str, str], counts: Mapping[str, int]
) -> dict[str, list[str] | list[int]]:
    """The labels of each split's array, from one file for all or one for each."""
    for suffix, read in ((".npy", _of_array), (".csv", _of_lines)):
        together = folder / f"labels{suffix}"
        if together.exists():
            words, ends = read(together), np.cumsum([counts.get(split, 0) for split in SPLITS])
            if len(words) != ends[-1]:
                raise ValueError(
                    f"data.classes: {together}: {count_of(len(words), 'label')} for "
                    f"{count_of(ends[-1], 'image')}"
                )
            return {
                split: words[end - counts[split] : end]
                for split, end in zip(SPLITS, ends, strict=True)
                if split in counts
            }
        each = {split: folder / f"{stem}-labels{suffix}" for split, stem in stems.items()}
        if each["train"].exists():
            return {split: read(path) for split, path in each.items()}
    raise ValueError(
        f"data.classes: {folder}: no labels.npy and no labels.csv beside the images' arrays"
    )


def _of_array(path: Path) -> list[str] | list[int]:
    labels = open_npy(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iubU":
        raise ValueError(
            f"{path}: {labels.dtype} of shape {labels.shape}; integers or texts, (N,), are needed"
        )
    words: list[str] | list[int] = labels.tolist()
    return words


def _of_lines(path: Path) -> list[str] | list[int]:
    """The last column of a CSV file, without its header."""
    words = [line[-1] for line in _lines(path)]
    return [*map(int, words)] if all(word.lstrip("-").isdecimal() for word in words) else words


def _lines(path: Path) -> list[list[str]]:
    with open_csv(path) as file:
        lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line]
    return lines[1:] if lines and lines[0][-1].lower() in HEADERS else lines
