"""A data set is found, checked and written once: train.npy, test.npy, ..., dataset.json."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from realnvp.config.fields import Config, DataConfig, ImageData, TableData
from realnvp.config.json import parse_json
from realnvp.data.builtin import digits, photos
from realnvp.data.dataset import (
    SPLITS,
    Crops,
    Dataset,
    Description,
    Values,
    cut_rows,
    in_threads,
    npy_header,
    open_npy,
    stored_pictures,
    take,
)
from realnvp.data.folder import own_images
from realnvp.data.tables import table
from realnvp.io.files import DamagedError, atomic_write
from realnvp.progress import track, track_slices

DESCRIPTION = "dataset.json"
BLOCK = 2**24  # bytes that are written at once


def find_data(config: DataConfig, *, seed: int) -> Dataset:
    """The data set that `prepare` would write. Every file is read and checked."""
    return _checked(_open_source(config, seed) or _find(config, seed), config)


def prepare(config: DataConfig, *, seed: int, folder: Path, verify: Iterable[str] = ()) -> Dataset:
    """Open the data set; write it to the folder first, unless it, or the source, is prepared.

    verify: the splits whose checksums are compared. DamagedError: the folder is damaged.
    ValueError: the folder was prepared with other settings, or the source is wrong.
    """
    names = ["set", "source", "val_fraction", "classes", "crop", "resize"]
    names += ["background", "color_mode", "bit_depth"]
    settings = {"seed": seed, **{name: getattr(config, name, None) for name in names}}
    if (folder / DESCRIPTION).exists():
        found = open_splits(folder, verify=verify)
        if found.settings != settings:
            raise ValueError(f"{folder}: was prepared with other settings of data or another seed")
    elif source := _open_source(config, seed, verify):
        found = source
    else:
        write_dataset(replace(find_data(config, seed=seed), settings=settings), folder)
        found = open_splits(folder)
    return _checked(found, config)


def splits_of_run(run_dir: Path, config: Config, *, verify: Iterable[str] = ()) -> Dataset:
    """Open the data that a run was trained on; built-in sets are made anew if the run has none.

    ValueError: the data are not there. DamagedError: the run's copy of them is damaged.
    """
    found = _open_source(config.data, config.seed, verify)
    if not found and (run_dir / "data").exists():
        found = open_splits(run_dir / "data", verify=verify)
    if not found and config.data.set in ("photos", "digits"):
        found = _find(config.data, config.seed)
        found = replace(found, splits={name: split[:] for name, split in found.splits.items()})
    if not found:
        raise ValueError(f"{run_dir / 'data'}: the training data are not here (data.source)")
    return _checked(found, config.data)


def find_split(source: Path, split: str, config: DataConfig) -> tuple[Dataset, str]:
    """Data outside any run, and the split to take: "all" if the source has no splits."""
    found = table(config, source) if isinstance(config, TableData) else own_images(config, source)
    if found.splits.keys() == {"train"}:
        labels = found.labels and {"all": found.labels["train"]}
        return replace(found, splits={"all": found.train}, labels=labels), "all"
    if split not in found.splits:
        raise ValueError(f"{source}: has no {split} split, only {' and '.join(found.splits)}")
    return found, split


def discard_prepared(folder: Path) -> None:
    """Delete the data that `prepare` has written, and the folder if it is empty then."""
    if (folder / DESCRIPTION).exists() and (found := read_description(folder)).settings:
        for name in (*found.sha256, DESCRIPTION):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _open_source(config: DataConfig, seed: int, verify: Iterable[str] = ()) -> Dataset | None:
    """The data set in the source, if that is a prepared folder."""
    source = Path(config.source).expanduser() if config.source else None
    if not source or not (source / DESCRIPTION).exists():
        return None
    return open_splits(source, val_fraction=config.val_fraction, seed=seed, verify=verify)


def _find(config: DataConfig, seed: int) -> Dataset:
    if config.set in ("images", "table"):
        if not config.source:
            raise ValueError(f"data.source: {config.set} needs a file or a folder")
        source = Path(config.source).expanduser()
        if isinstance(config, TableData):
            return table(config, source, seed=seed)
        return own_images(config, source, seed=seed)
    if config.set in ("photos", "digits") and not config.source:
        return photos(seed=seed) if config.set == "photos" else digits(config.val_fraction, seed)
    raise ValueError(f"data.source: {config.set} needs a prepared folder (realnvp prepare)")


def _checked(found: Dataset, config: DataConfig) -> Dataset:
    """The data set, with classes only if asked for. ValueError: `config` asks for another set."""
    pairs: dict[str, Any] = {"set": (config.set, found.name), "shape": (config.shape, found.shape)}
    if isinstance(config, TableData):
        context = tuple(column.name for column in found.context_values)
        columns = config.columns or found.columns or ()
        left = tuple(name for name in columns if name not in (*(config.drop or ()), *context))
        pairs["columns"] = left, found.columns
        pairs["context_columns"] = config.context_columns or (), context
    else:
        if not config.classes:
            found = replace(found, labels=None, class_names=None)
        if config.set == "images":
            pairs["set"] = None, found.name
        # The files decide between 256 and 65,536 levels.
        own = config.levels == 256 and (found.levels or 0) >= 256
        pairs["levels"] = None if own else config.levels, found.levels
        pairs["crop"] = config.crop, found.crop
        pairs["resize"] = None if found.crop else config.resize, min(found.shape[1:], default=None)
        pairs["classes"] = config.classes or None, found.class_names is not None
        pairs["class_names"] = config.class_names, found.class_names
        pairs |= {
            name: (asked, getattr(found.reading, name)) for name, asked in config.chosen().items()
        }
    for name, (asked, has) in pairs.items():
        if asked not in (None, has):
            raise ValueError(f"data.{name}: {found.folder or found.name} has {has}, not {asked}")
    return found


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
    DamagedError: a file is missing or damaged.
    """
    about = read_description(folder)
    present = [split for split in SPLITS if f"{split}.npy" in about.sha256]
    labels: dict[str, Values] = {}
    try:
        for split in {split if split in present else "train" for split in verify}:
            for name in {f"{split}.npy", f"{split}-labels.npy"} & about.sha256.keys():
                if _sha256(folder / name) != about.sha256[name]:
                    raise ValueError(f"{folder / name}: damaged, its checksum differs")
        splits: dict[str, Any] = {split: open_npy(folder / f"{split}.npy") for split in present}
        if "train-labels.npy" in about.sha256:
            labels = {split: np.array(open_npy(folder / f"{split}-labels.npy")) for split in splits}
    except (OSError, ValueError) as error:
        raise DamagedError(str(error)) from None
    if about.crop and about.sizes:
        sizes = np.array(about.sizes)
        stored = stored_pictures(splits["train"], sizes, about.shape[0])
        splits["train"] = Crops(stored, sizes, about.crop)
    else:
        size = splits["train"].shape[1:-1]
        if "validation" not in splits:
            equal = [about.repeats.get(i, i) for i in range(len(splits["train"]))]
            rows = cut_rows(splits, val_fraction, seed=seed, equal=equal)
            splits, labels = take(splits, rows), labels and take(labels, rows)
        if size != about.shape[1:]:  # of LSUN: training crops its images
            for split in {"train", "validation"} - {*present[1:]}:
                sizes = np.tile(size, (len(splits[split]), 1))
                splits[split] = Crops(splits[split], sizes, about.shape[1], most=1)
    return Dataset(**vars(about), splits=splits, labels=labels or None, folder=folder)


def read_description(folder: Path) -> Description:
    """The content of dataset.json. DamagedError: it is missing or damaged."""
    path = folder / DESCRIPTION
    try:
        return parse_json(Description, path.read_bytes(), path)
    except (OSError, ValueError) as error:
        raise DamagedError(str(error)) from None


def write_dataset(dataset: Dataset, folder: Path) -> None:
    """Write a prepared folder, whole or not at all. ValueError: the folder holds something."""
    with new_folder(folder) as partial:
        for split in dataset.splits:
            _write_split(dataset, split, partial / f"{split}.npy")
        for split, labels in (dataset.labels or {}).items():
            np.save(partial / f"{split}-labels.npy", labels)
        write_description(dataset, partial)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Context: a folder that takes its place at the end. ValueError: the place holds something."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        yield partial
        partial.replace(folder)


def write_description(about: Description, folder: Path) -> None:
    """Write dataset.json beside the arrays of a data set."""
    values = {item.name: getattr(about, item.name) for item in fields(Description)}
    values["sha256"] = {path.name: _sha256(path) for path in sorted(folder.glob("*.npy"))}
    with atomic_write(folder / DESCRIPTION) as file:
        file.write(TypeAdapter(Description).dump_json(Description(**values), indent=1))


def _write_split(dataset: Dataset, split: str, path: Path) -> None:
    """Write a split as .npy. Training pictures of any size become one flat array."""
    images, levels = dataset.splits[split], dataset.levels
    kind = "<f8" if levels is None else "|u1" if levels <= 256 else "<u2"
    blocks: Iterator[Values]
    if isinstance(images, Crops) and split == "train":
        shape: tuple[int, ...] = (int(images.sizes.prod(1).sum()) * dataset.shape[0],)
        wanted = track(range(len(images.pictures)), "pictures")
        blocks = in_threads(images.pictures.__getitem__, wanted, at_once=8)
    else:
        first = images[:1]
        shape = (len(images), *first.shape[1:])
        parts = track_slices(len(images), max(1, BLOCK // first.nbytes), split)
        blocks = (images[part] for part in parts)
    with atomic_write(path) as file:
        file.write(npy_header(shape, kind))
        for block in blocks:
            file.write(np.ascontiguousarray(block, kind).tobytes())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
