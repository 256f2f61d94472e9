"""From whatever holds the images to a prepared folder: look first, complain, and only then write."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from realnvp.config import DataConfig
from realnvp.data.digits import digits
from realnvp.data.folder import scan
from realnvp.data.photos import photos
from realnvp.data.source import SPLITS, Part, Shape, Source, array_part, cut_off
from realnvp.data.splits import DESCRIPTION, Splits, open_splits, read_description, sha256

_NEEDS = {
    "cifar10": "50,000 training and 10,000 test images of 32x32 (train, test)",
    "celeba": "images cropped to 148x148 and resized to 64x64 (train, validation, test)",
    "imagenet": "downsampled training and validation images (train, validation)",
    "lsun": "training and validation images cropped to 64x64 (train, validation)",
}
# Results on these are reported on what they call validation: it becomes our test, and ours is cut off from training.
_REPORTED_ON_VALIDATION = ("imagenet", "lsun")
# There are two downsampled ImageNets, about .25 bits/dim apart; the number of validation images tells which.
_IMAGENET = {49_999: "van den Oord 2016 (the paper's)", 50_000: "Chrabaszcz 2017 (not the paper's)"}


def find_data(config: DataConfig, *, seed: int) -> Source:
    """What `prepare` would write: name, shape, counts; every file is read and checked, nothing is written.

    ValueError names the field, or all bad files.
    """
    source = _find(config, seed)
    if source.levels != config.levels:
        raise ValueError(f"data.levels: {source.name} has {source.levels} grey levels, not {config.levels}")
    if config.shape not in (None, source.shape):
        raise ValueError(f"data.shape: the configuration says {config.shape}, the images are {source.shape}")
    return source


def prepare(config: DataConfig, *, seed: int, folder: Path) -> Splits:
    """The data set, opened; written to the folder first, unless it is there or the source is a prepared folder itself.

    ValueError names the field that differs from what the folder was prepared with, or what is wrong with the source.
    """
    if (folder / DESCRIPTION).exists():
        _check_settings(config, seed, folder)
        return open_splits(folder)
    source = find_data(config, seed=seed)
    if prepared := _prepared_source(config):
        return open_splits(prepared)
    if config.source and folder.resolve() == Path(config.source).expanduser().resolve():
        raise ValueError(f"data.source: {folder} is also where the prepared data would be written")
    _write(source, _settings(config, seed), folder)
    return open_splits(folder)


def atomic_save(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file as a whole or not at all: into a hidden sibling, to the disk, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _prepared_source(config: DataConfig) -> Path | None:
    """The source, where it is a prepared folder itself."""
    source = Path(config.source).expanduser() if config.source else None
    return source if source and (source / DESCRIPTION).exists() else None


def _find(config: DataConfig, seed: int) -> Source:
    if prepared := _prepared_source(config):
        return _from_prepared(config, prepared)
    if config.set in ("photos", "digits"):
        if config.source:
            raise ValueError(f"data.source: {config.set} comes with its packages; only a prepared folder can replace it")
        return photos(seed=seed) if config.set == "photos" else digits(config.held_out, seed=seed)
    family = config.set.split("-")[0].removesuffix("32").removesuffix("64")
    if not config.source:
        needs = _NEEDS.get(family, "images of one size")
        raise ValueError(f"data.source: {config.set} needs a folder of images, an .npy file or a prepared folder: {needs}")
    parts, shape = scan(Path(config.source).expanduser(), levels=config.levels)
    version = None
    if family in _REPORTED_ON_VALIDATION and "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
        version = _IMAGENET.get(parts["test"].count) if family == "imagenet" else None
    return Source(config.set, version, config.levels, shape, cut_off(parts, config.held_out, seed=seed))


def _from_prepared(config: DataConfig, folder: Path) -> Source:
    splits = open_splits(folder)
    if config.set not in (splits.name, "images"):
        raise ValueError(f"data.set: {folder} holds {splits.name}, not {config.set}")
    parts = {split: array_part(getattr(splits, split)) for split in SPLITS}
    groups = None if splits.test_groups is None else splits.test_groups.tolist()
    return Source(splits.name, splits.version, splits.levels, splits.shape, parts, groups)


def _settings(config: DataConfig, seed: int) -> dict[str, Any]:
    """What decides the content of a prepared folder, as dataset.json records it."""
    return {"name": config.set, "levels": config.levels, "source": config.source, "held_out": config.held_out, "seed": seed}


def _check_settings(config: DataConfig, seed: int, folder: Path) -> None:
    recorded = read_description(folder)
    now = _settings(config, seed) | ({"shape": [*config.shape]} if config.shape else {})
    for name, value in now.items():
        if recorded[name] != value:
            field = {"name": "data.set", "seed": "seed"}.get(name, f"data.{name}")
            raise ValueError(f"{field}: {folder} was prepared with {recorded[name]!r}, not {value!r}; name another folder")


def _write(source: Source, settings: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: folder / f"{split}.npy" for split in SPLITS}
    for split, path in files.items():
        _save_part(source.parts[split], source.shape, path)
    about = settings | {
        "version": source.version,
        "shape": source.shape,
        "counts": source.counts,
        "test_groups": source.test_groups,
        "sha256": {path.name: sha256(path) for path in files.values()},
    }
    # Written last: a folder with it is complete.
    atomic_save(folder / DESCRIPTION, lambda file: file.write(json.dumps(about, indent=1).encode()))


def _save_part(part: Part, shape: Shape, path: Path) -> None:
    """One split as .npy, uint8 (N, H, W, C), written in blocks: memory stays bounded, and a full disk is an OSError."""
    channels, height, width = shape
    rows = max(1, 2**24 // (channels * height * width))
    header = {"descr": "|u1", "fortran_order": False, "shape": (part.count, height, width, channels)}

    def write(file: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, part.count, rows):
            file.write(part.read(np.arange(start, min(start + rows, part.count))).tobytes())

    atomic_save(path, write)


def splits_of_run(run_dir: Path, config: DataConfig) -> Splits:
    """The data that a run was trained on; ValueError if they are not there any more."""
    return open_splits(_prepared_source(config) or run_dir / "data")
