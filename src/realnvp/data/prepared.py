"""A data set is found, checked and written once: train.npy, test.npy, ..., dataset.json."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from realnvp.config import Config, ContextColumn, DataConfig, ImageData, TableData
from realnvp.config.errors import reason
from realnvp.config.fields import DecodeOptions
from realnvp.data.builtin import digits, photos
from realnvp.data.crops import Crops, CropView, ReadPictures, StoredPictures, in_order
from realnvp.data.dataset import (
    SPLITS,
    Dataset,
    Split,
    Values,
    cut_rows,
    npy_header,
    open_npy,
    sha256_of,
    split_off,
    subset,
    warn_of_equal,
)
from realnvp.data.folder import SHALLOW, choose_split, find_labels, labels_among, of_crops, scan
from realnvp.data.tables import table
from realnvp.io.files import atomic_write, damaged_if_invalid
from realnvp.progress import track_slices

DESCRIPTION = "dataset.json"
BLOCK = 2**24  # bytes that are written at once
MOST_CROPS = 64  # fixed crops of one picture


def find_data(config: DataConfig, *, seed: int) -> Dataset:
    """The data set that `prepare` would write. Every file is read and checked."""
    if prepared := _prepared_source(config):
        return _open(prepared, config, seed)
    return _checked(_find(config, seed), config)


def prepare(config: DataConfig, *, seed: int, folder: Path, verify: Iterable[str] = ()) -> Dataset:
    """Open the data set; write it to the folder first, unless it, or the source, is prepared.

    verify: the splits whose checksums are compared.
    ValueError: the folder was prepared with other settings, or the source is wrong.
    DamagedError: the folder is damaged.
    """
    if (folder / DESCRIPTION).exists():
        with damaged_if_invalid():
            settings = read_description(folder)["settings"]
            found = open_splits(folder, verify=verify)
        if settings != _settings(config, seed):
            raise ValueError(f"{folder}: was prepared with other settings of data or another seed")
        return _checked(found, config)
    if prepared := _prepared_source(config):
        return _open(prepared, config, seed, verify)
    about = {name: getattr(config, name) for name in ("source", "val_fraction")}
    about |= {"name": config.set, "seed": seed, "settings": _settings(config, seed)}
    write_dataset(find_data(config, seed=seed), about, folder)
    return open_splits(folder)


def splits_of_run(run_dir: Path, config: Config, *, verify: Iterable[str] = ()) -> Dataset:
    """Open the data that a run of this configuration was trained on.

    Built-in sets are made anew if the run has none. ValueError: the data are not there.
    DamagedError: the run's copy of them is damaged.
    """
    if prepared := _prepared_source(config.data):
        return _open(prepared, config.data, config.seed, verify)
    if (run_dir / "data").exists():
        with damaged_if_invalid():
            return _checked(open_splits(run_dir / "data", verify=verify), config.data)
    if config.data.set in ("photos", "digits"):
        found = find_data(config.data, seed=config.seed)
        return replace(found, splits={name: split[:] for name, split in found.splits.items()})
    raise ValueError(f"{run_dir / 'data'}: the training data are not here (data.source)")


def find_split(
    source: Path, split: str, config: ImageData, class_names: Sequence[str] | None = None
) -> tuple[Dataset, str]:
    """Images outside any run, and the split to take: "all" if the source has no splits.

    class_names: the flow's; labels of these classes are read, too.
    """
    found = scan(source, config)
    splits: dict[str, Any] = found.splits
    if config.crop:
        splits = {name: Crops(each, config.crop, most=MOST_CROPS) for name, each in splits.items()}
    labels = labels_among(source, found, splits, class_names) if class_names else None
    labels = labels and choose_split(labels, split, source)[0]
    splits, split = choose_split(splits, split, source)
    return Dataset(
        str(source),
        None,
        found.levels,
        found.shape,
        splits,
        reading=config.decode_options,
        crop=config.crop,
        labels=labels,
        class_names=tuple(class_names) if class_names and labels else None,
    ), split


def discard_prepared(folder: Path) -> None:
    """Delete the data that `prepare` has written, and the folder if it is empty then."""
    if (folder / DESCRIPTION).exists() and "settings" in read_description(folder):
        for path in (folder / DESCRIPTION, *(folder / f"{split}.npy" for split in SPLITS)):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _prepared_source(config: DataConfig) -> Path | None:
    """The source, if it is a prepared folder itself, of the crops that are asked for."""
    source = Path(config.source).expanduser() if config.source else None
    if not source or not (source / DESCRIPTION).exists():
        return None
    crop = config.crop if isinstance(config, ImageData) else None
    return source if crop in (None, read_description(source)["crop"]) else None


def _settings(config: DataConfig, seed: int) -> str:
    """A checksum of the settings that decide the content of a prepared folder."""
    names = ["set", "source", "val_fraction"]
    if isinstance(config, ImageData):
        names += ["classes", "crop", "resize", *config.chosen()]
    settings = {name: getattr(config, name) for name in names}
    if isinstance(config, ImageData):  # the files decide between 256 and 65,536 levels
        settings["levels"] = SHALLOW if config.levels == SHALLOW**2 else config.levels
    text = json.dumps([settings, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _find(config: DataConfig, seed: int) -> Dataset:
    if isinstance(config, TableData):
        return table(config, seed=seed)
    if config.set in ("photos", "digits"):
        if config.source:
            raise ValueError(f"data.source: {config.set} needs none, or a prepared folder")
        return photos(seed=seed) if config.set == "photos" else digits(config.val_fraction, seed)
    if config.set != "images":
        raise ValueError(f"data.source: {config.set} needs a prepared folder (realnvp prepare)")
    if not config.source:
        raise ValueError("data.source: images need a folder or an .npy file")
    return _images(config, Path(config.source).expanduser(), seed)


def _images(config: ImageData, source: Path, seed: int) -> Dataset:
    """The user's own images, split by the seed if the source has no splits."""
    found = scan(source, config)
    cut = partial(split_off, val_fraction=config.val_fraction, seed=seed, equal=found.digests)
    warn_of_equal(source, found.digests, "images")
    labels, class_names, groups = None, None, None
    if config.classes:
        known, class_names = find_labels(source, found)
        labels = {split: each[:] for split, each in cut(known).items()}
    splits = cut(found.splits, choose=ReadPictures.subset if config.crop else subset)
    if config.crop:
        most = {"train": None, "validation": MOST_CROPS, "test": MOST_CROPS}
        splits = {name: Crops(splits[name], config.crop, most=most[name]) for name in SPLITS}
        groups = {split: splits[split].groups.tolist() for split in ("validation", "test")}
        labels = labels and of_crops(labels, splits)
    return Dataset(
        config.set,
        None,
        found.levels,
        found.shape,
        splits,
        groups,
        reading=config.decode_options,
        crop=config.crop,
        labels=labels,
        class_names=class_names,
    )


def _open(folder: Path, config: DataConfig, seed: int, verify: Iterable[str] = ()) -> Dataset:
    """The prepared folder of data.source. ValueError: the configuration asks for other data."""
    found = open_splits(folder, val_fraction=config.val_fraction, seed=seed, verify=verify)
    if config.set not in ("images", found.name):
        raise ValueError(f"data.set: {folder} holds {found.name}, not {config.set}")
    if isinstance(config, ImageData):
        side = min(found.shape[1:], default=None)
        _refuse_others(folder, resize=(config.resize or side, side))
        for name, value in config.chosen().items():
            _refuse_others(folder, **{name: (value, getattr(found.reading, name))})
    return _checked(found, config)


def _checked(found: Dataset, config: DataConfig) -> Dataset:
    """The data set, with classes only if asked for. ValueError: the configuration contradicts."""
    where = found.folder or found.name
    if (found.levels is None) != isinstance(config, TableData):
        raise ValueError(f"data.set: {where} holds {found.name}, not {config.set}")
    _refuse_others(where, shape=(config.shape or found.shape, found.shape))
    if isinstance(config, TableData):
        context, columns = found.context or (), found.columns or ()
        dropped = (*(config.drop or ()), *context)
        wanted = tuple(name for name in config.columns or columns if name not in dropped)
        _refuse_others(
            where,
            context_columns=(config.context_columns or (), context),
            columns=(wanted, columns),
        )
        return found
    if config.levels != SHALLOW or (found.levels or 0) < SHALLOW:
        _refuse_others(where, levels=(config.levels, found.levels))
    if not config.classes:
        return replace(found, labels=None, class_names=None)
    if found.class_names is None:
        raise ValueError(f"data.classes: {where} has no classes")
    names = config.class_names or found.class_names
    _refuse_others(where, class_names=(names, found.class_names))
    return found


def _refuse_others(where: object, **fields: tuple[Any, Any]) -> None:
    """ValueError: a field of `data`, by name (asked, found), is not as asked."""
    for name, (asked, found) in fields.items():
        if asked != found:
            raise ValueError(f"data.{name}: {where} has {found}, not {asked}")


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
        if sha256_of(path) != about["sha256"][path.name]:
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
    names = ("name", "version", "levels", "groups", "comparable", "crop")
    same: dict[str, Any] = {name: about[name] for name in names}
    tuples: dict[str, Any] = {
        name: about[name] and tuple(about[name]) for name in ("columns", "class_names", "context")
    }
    return Dataset(
        **same,
        **tuples,
        shape=shape,
        splits={split: splits[split] for split in SPLITS},
        reading=DecodeOptions(**about["reading"]),
        labels=labels,
        context_values=tuple(ContextColumn(**each) for each in about["context_values"]),
        folder=folder,
        sha256={f"{split}.npy": about["sha256"][f"{split}.npy"] for split in stored},
    )


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


def write_dataset(dataset: Dataset, about: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write a prepared folder, whole or not at all; returns the fields of its dataset.json.

    about: see `write_description`. ValueError: the folder holds something.
    """
    with new_folder(folder) as partial:
        for split, images in dataset.splits.items():
            _write_split(dataset, split, images, partial / f"{split}.npy")
        return write_description(dataset, about, partial)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Context: a folder that takes its place at the end, if the block succeeds.

    ValueError: the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        yield partial
        partial.replace(folder)


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
    fields["sha256"] = {name: sha256_of(folder / name) for name in arrays}
    fields = json.loads(json.dumps(fields))  # tuples become lists
    fields["sha256"][DESCRIPTION] = checksum(fields)
    with atomic_write(folder / DESCRIPTION) as file:
        file.write(json.dumps(fields, indent=1).encode())
    return fields


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
            parts = track_slices(len(images), max(1, BLOCK // first.nbytes), split)
            blocks = (
                images[part] if context is None else np.hstack([images[part], context[part]])
                for part in parts
            )
        for block in blocks:
            file.write(np.ascontiguousarray(block, kind).tobytes())
