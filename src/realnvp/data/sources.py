"""From whatever holds the data to a prepared folder: look first, complain, and only then write."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from realnvp.config import Config, DataConfig, TableData
from realnvp.data.builtin import digits, photos
from realnvp.data.crops import Crops, ReadPictures
from realnvp.data.dataset import SPLITS, Dataset, split_off
from realnvp.data.folder import MOST_CROPS, SHALLOW, scan
from realnvp.data.labels import cut_labels, find_labels, of_crops
from realnvp.data.prepared import DESCRIPTION, open_splits, read_description, write_dataset
from realnvp.data.tables import names_in, table
from realnvp.io.files import damaged_if_invalid, kept_sibling, write_file

STATE = ".prepare.json"  # beside the arrays until all is written: whose they are


def find_data(config: DataConfig, *, seed: int) -> Dataset:
    """What `prepare` would write. Every file is read and checked, nothing is written.

    ValueError names the field, or all bad files.
    """
    found = _with_classes(_find(config, seed), config)
    levels = None if isinstance(config, TableData) else config.levels
    if found.levels != levels and not (
        levels == SHALLOW and found.levels and found.levels > SHALLOW
    ):
        raise ValueError(f"data.levels: {found.name} has {found.levels} gray levels, not {levels}")
    if config.shape not in (None, found.shape):
        raise ValueError(
            f"data.shape: the configuration says {config.shape}, the data are {found.shape}"
        )
    return found


def _with_classes(found: Dataset, config: DataConfig) -> Dataset:
    """The data set with its classes if they are asked for, else without."""
    if isinstance(config, TableData):
        return _as_given(found, config)
    if not config.classes:
        return replace(found, labels=None, class_names=None)
    if found.labels is None:
        where = f"{found.folder}: " if found.folder else ""
        raise ValueError(f"data.classes: {where}{found.name} has no classes; prepare it again?")
    if config.class_names not in (None, found.class_names):
        raise ValueError(
            f"data.class_names: the configuration says {', '.join(config.class_names or ())}; the "
            f"data have {', '.join(found.class_names or ())}"
        )
    return found


def _as_given(found: Dataset, config: TableData) -> Dataset:
    """The data set, whose given columns are those that are asked for. ValueError: they are not."""
    there = found.context or ()
    if names_in(config.context_columns or (), there) != there:
        raise ValueError(
            f"data.context_columns: {found.folder or found.name} was prepared with "
            f"{', '.join(there) or 'no context columns'}; choose others from the table itself"
        )
    return found


def prepare(config: DataConfig, *, seed: int, folder: Path, verify: Iterable[str] = ()) -> Dataset:
    """Open the data set; write it to the folder first, unless it, or the source, is prepared.

    verify: the splits whose checksums are compared, where they are there.
    ValueError: a field differs from what the folder was prepared with, or the source is wrong.
    DamagedError: the folder is damaged.
    """
    if (folder / DESCRIPTION).exists():
        (folder / STATE).unlink(missing_ok=True)  # a preparation was killed just before it did this
        _check_settings(config, seed, folder)
        with damaged_if_invalid():
            return _with_classes(open_splits(folder, verify=verify), config)
    found = find_data(config, seed=seed)
    if prepared := _prepared_source(config):
        return _with_classes(
            open_splits(prepared, val_fraction=config.val_fraction, seed=seed, verify=verify),
            config,
        )
    settings = _settings(config, seed)
    acquire_dir(folder, settings)
    write_dataset(found, settings, folder)
    (folder / STATE).unlink()
    return open_splits(folder)


def acquire_dir(folder: Path, state: dict[str, Any]) -> None:
    """Make a folder this preparation's: delete what another preparation left half done.

    ValueError: there are files that no preparation wrote.
    """
    path, files = folder / STATE, [folder / f"{split}.npy" for split in SPLITS]
    if not path.exists():
        if there := next((file for file in files if file.exists()), None):
            raise ValueError(f"{there}: is not of this preparation; name another folder")
    elif path.read_text(encoding="utf-8") == json.dumps(state):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.unlink(missing_ok=True)
        kept_sibling(file).unlink(missing_ok=True)
    write_file(path, json.dumps(state))


def discard_prepared(folder: Path) -> None:
    """Delete the data that a training has just written, and the folder if it is empty then."""
    if not (folder / DESCRIPTION).exists():
        return
    write_file(folder / STATE, "{}")  # if we are killed, the rest counts as half prepared
    for name in (DESCRIPTION, *(f"{split}.npy" for split in SPLITS), STATE):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _prepared_source(config: DataConfig) -> Path | None:
    """The source, where it is a prepared folder itself, and of crops if they are asked for."""
    source = Path(config.source).expanduser() if config.source else None
    if not source or not (source / DESCRIPTION).exists():
        return None
    crop = None if isinstance(config, TableData) else config.crop
    other = crop and crop != read_description(source).get("crop")
    return None if other else source


def _find(config: DataConfig, seed: int) -> Dataset:
    if prepared := _prepared_source(config):
        return _from_prepared(config, prepared, seed)
    if config.set in ("photos", "digits"):
        if config.source:
            raise ValueError(
                f"data.source: {config.set} comes with its packages; "
                "only a prepared folder can replace it"
            )
        return (
            photos(seed=seed) if config.set == "photos" else digits(config.val_fraction, seed=seed)
        )
    if isinstance(config, TableData):
        return table(config, seed=seed)
    if config.set != "images":
        raise ValueError(
            f"data.source: {config.set} needs a prepared folder: "
            f"realnvp prepare {config.set} --source {config.source or 'DOWNLOAD'} --out DIR, "
            "then --data.source DIR"
        )
    if not config.source:
        raise ValueError(
            "data.source: images needs a folder of images, an .npy file or a prepared folder"
        )
    source = Path(config.source).expanduser()
    found = scan(
        source,
        levels=config.levels,
        reading=config.decode_options,
        crop=config.crop,
        resize=config.resize,
    )
    if config.resize:
        found.warn_of_lost_pixels(config.resize)
    labels, class_names = None, None
    if config.classes:
        counts = {split: len(each) for split, each in found.splits.items()}
        known, class_names = find_labels(source, counts)
        labels = cut_labels(known, config.val_fraction, seed=seed)
    dataset = partial(
        Dataset,
        config.set,
        None,
        found.levels,
        found.shape,
        reading=config.decode_options,
        class_names=class_names,
    )
    if not config.crop:
        return dataset(split_off(found.splits, config.val_fraction, seed=seed), labels=labels)
    pictures = split_off(found.splits, config.val_fraction, seed=seed, choose=ReadPictures.chosen)
    crops = {
        split: Crops(each, config.crop, most=None if split == "train" else MOST_CROPS)
        for split, each in pictures.items()
    }
    groups = {split: each.groups.tolist() for split, each in crops.items() if split != "train"}
    labels = labels and of_crops(labels, crops)
    return dataset(crops, groups, crop=config.crop, labels=labels)


def _from_prepared(config: DataConfig, folder: Path, seed: int) -> Dataset:
    found = open_splits(folder, val_fraction=config.val_fraction, seed=seed)
    if config.set not in (found.name, "images") or (found.levels is None) != (
        isinstance(config, TableData)
    ):
        raise ValueError(f"data.set: {folder} holds {found.name}, not {config.set}")
    if isinstance(config, TableData):
        _check_columns(found, folder, config)
        return found
    if config.resize and config.resize != min(found.shape[1:]):
        raise ValueError(
            f"data.resize: {folder} was prepared with images of {found.shape[1]}x{found.shape[2]}; "
            "prepare its source again"
        )
    for name, value in config.decode_options.chosen().items():
        if getattr(found.reading, name) != value:
            raise ValueError(
                f"data.{name}: {folder} was prepared with {getattr(found.reading, name)!r}, "
                f"not {value!r}; prepare its source again"
            )
    return found


def _check_columns(found: Dataset, folder: Path, config: TableData) -> None:
    there = found.columns or ()
    for name, kept in (("columns", config.columns), ("drop", config.drop)):
        if kept is not None and (name == "drop" or names_in(kept, there) != there):
            raise ValueError(
                f"data.{name}: {folder} holds {', '.join(there)}, in this order; "
                "choose others from the table itself"
            )


def _settings(config: DataConfig, seed: int) -> dict[str, Any]:
    """What decides the content of a prepared folder, as dataset.json records it."""
    common = {
        "name": config.set,
        "levels": None if isinstance(config, TableData) else config.levels,
        "source": config.source,
        "val_fraction": config.val_fraction,
        "seed": seed,
    }
    if isinstance(config, TableData):
        return common
    return {
        **common,
        **{name: side for name in ("crop", "resize") if (side := getattr(config, name))},
        **({"classes": True} if config.classes else {}),
        **config.decode_options.chosen(),
    }


def _check_settings(config: DataConfig, seed: int, folder: Path) -> None:
    with damaged_if_invalid():
        recorded = read_description(folder)
    now = _settings(config, seed)
    if config.shape:
        now["shape"] = [*config.shape]
    if config.class_names:
        now["class_names"] = [*config.class_names]
    if isinstance(config, TableData) and (config.columns or config.drop):
        there = [*(recorded["columns"] or []), *(recorded.get("context") or [])]
        left_out = {*names_in(config.context_columns or (), there)}
        taken = [name for name in names_in(config.columns or there, there) if name not in left_out]
        now["columns"] = [name for name in taken if name not in names_in(config.drop or (), there)]
    for name, value in now.items():
        if name == "levels" and value == SHALLOW and (recorded[name] or 0) > SHALLOW:
            continue  # the files have decided it
        if recorded.get(name) != value:
            field = {"name": "data.set", "seed": "seed"}.get(name, f"data.{name}")
            raise ValueError(
                f"{field}: {folder} was prepared with {recorded.get(name)!r}, not {value!r}; "
                "name another folder"
            )


def splits_of_run(run_dir: Path, config: Config, *, verify: Iterable[str] = ()) -> Dataset:
    """Open the data that a run of this configuration was trained on.

    verify: the splits whose checksums are compared.

    Sets that come with their packages are made anew where the run has none: for shared flows.
    ValueError if they are not there, DamagedError if the run's copy of them has changed.
    """
    if prepared := _prepared_source(config.data):
        found = open_splits(
            prepared, val_fraction=config.data.val_fraction, seed=config.seed, verify=verify
        )
        return _with_classes(found, config.data)
    if not (run_dir / "data").exists():
        if config.data.set in ("photos", "digits") and not config.data.source:
            found = find_data(config.data, seed=config.seed)
            return replace(found, splits={name: split[:] for name, split in found.splits.items()})
        raise ValueError(
            f"{run_dir / 'data'}: the data that it was trained on are not here; "
            "evaluate --data.source DIR measures it on others"
        )
    with damaged_if_invalid():
        return _with_classes(open_splits(run_dir / "data", verify=verify), config.data)
