"""From the source of the data to a prepared folder: read and check everything, then write."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from realnvp.config import Config, DataConfig, ImageData, TableData
from realnvp.config.fields import AS_FOUND, DecodeOptions
from realnvp.data.builtin import digits, photos
from realnvp.data.crops import Crops, ReadPictures
from realnvp.data.dataset import SPLITS, Dataset, split_off, warn_of_equal
from realnvp.data.folder import SHALLOW, choose_split, scan
from realnvp.data.labels import find_labels, labels_among, of_crops
from realnvp.data.prepared import DESCRIPTION, open_splits, read_description, write_dataset
from realnvp.data.tables import table
from realnvp.io.files import damaged_if_invalid

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
    about = {
        "name": config.set,
        "source": config.source,
        "val_fraction": config.val_fraction,
        "seed": seed,
        "settings": _settings(config, seed),
    }
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
    source: Path,
    split: str,
    *,
    levels: int,
    reading: DecodeOptions = AS_FOUND,
    crop: int | None = None,
    resize: int | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[Dataset, str]:
    """Images outside any run, and the split to take: "all" if the source has no splits.

    class_names: the flow's; labels of these classes are read, too.
    """
    found = scan(source, levels=levels, reading=reading, crop=crop, resize=resize)
    splits: dict[str, Any] = found.splits
    if crop:
        splits = {name: Crops(each, crop, most=MOST_CROPS) for name, each in splits.items()}
    labels = labels_among(source, found, splits, class_names) if class_names else None
    if labels:
        labels, _ = choose_split(labels, split, source)
    splits, split = choose_split(splits, split, source)
    return Dataset(
        str(source),
        None,
        found.levels,
        found.shape,
        splits,
        reading=reading,
        crop=crop,
        labels=labels,
        class_names=tuple(class_names) if class_names and labels else None,
    ), split


def discard_prepared(folder: Path) -> None:
    """Delete the data that `prepare` has written, and the folder if it is empty then."""
    if (folder / DESCRIPTION).exists() and "settings" in read_description(folder):
        for name in (DESCRIPTION, *(f"{split}.npy" for split in SPLITS)):
            (folder / name).unlink(missing_ok=True)
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
    settings: dict[str, Any] = {
        name: getattr(config, name) for name in ("set", "source", "val_fraction")
    }
    if isinstance(config, ImageData):
        settings |= {name: getattr(config, name) for name in ("classes", "crop", "resize")}
        settings |= config.chosen()
        # The files decide between 256 and 65,536.
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
    found = scan(
        source,
        levels=config.levels,
        reading=config.decode_options,
        crop=config.crop,
        resize=config.resize,
    )
    cut = partial(split_off, val_fraction=config.val_fraction, seed=seed, equal=found.digests)
    warn_of_equal(source, found.digests, "images")
    labels, class_names = None, None
    if config.classes:
        known, class_names = find_labels(source, found)
        labels = {split: each[:] for split, each in cut(known).items()}
    groups = None
    if config.crop:
        pictures = cut(found.splits, choose=ReadPictures.subset)
        splits: dict[str, Any] = {
            split: Crops(each, config.crop, most=None if split == "train" else MOST_CROPS)
            for split, each in pictures.items()
        }
        groups = {split: splits[split].groups.tolist() for split in ("validation", "test")}
        labels = labels and of_crops(labels, splits)
    else:
        splits = cut(found.splits)
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
    asked: list[tuple[str, Any, Any]] = []
    if config.set != "images":
        asked.append(("set", config.set, found.name))
    if isinstance(config, ImageData):
        if config.resize:
            asked.append(("resize", config.resize, min(found.shape[1:], default=None)))
        for name, value in config.decode_options.chosen().items():
            asked.append((name, value, getattr(found.reading, name)))
    _refuse_others(asked, folder)
    return _checked(found, config)


def _checked(found: Dataset, config: DataConfig) -> Dataset:
    """The data set, with classes only if asked for. ValueError: the configuration contradicts."""
    where = found.folder or found.name
    if (found.levels is None) != isinstance(config, TableData):
        raise ValueError(f"data.set: {where} holds {found.name}, not {config.set}")
    asked: list[tuple[str, Any, Any]] = [("shape", config.shape or found.shape, found.shape)]
    if isinstance(config, TableData):
        context, columns = found.context or (), found.columns or ()
        left = [name for name in config.columns or columns if name not in (config.drop or ())]
        asked.append(("context_columns", config.context_columns or (), context))
        asked.append(("columns", tuple(name for name in left if name not in context), columns))
        _refuse_others(asked, where)
        return found
    if not config.classes:
        found = replace(found, labels=None, class_names=None)
    elif found.class_names is None:
        raise ValueError(f"data.classes: {where} has no classes")
    else:
        names = config.class_names or found.class_names
        asked.append(("class_names", names, found.class_names))
    if config.levels != SHALLOW or (found.levels or 0) < SHALLOW:
        asked.append(("levels", config.levels, found.levels))
    _refuse_others(asked, where)
    return found


def _refuse_others(settings: Iterable[tuple[str, Any, Any]], where: object) -> None:
    """ValueError: a field of `data`, (name, asked, found), is not as asked."""
    for name, asked, found in settings:
        if asked != found:
            raise ValueError(f"data.{name}: {where} has {found}, not {asked}")
