"""Who may train in a run directory, and what a sitting makes of what earlier ones left there."""

import json
import math
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realnvp.config import MAY_CHANGE, Config, differences, flat, read_config, resolve, to_json
from realnvp.config.errors import ParameterError
from realnvp.data import Dataset, discard_prepared
from realnvp.files.atomic import sweep, write_file
from realnvp.files.checkpoint import TrainState
from realnvp.files.environment import Sitting, present_sitting
from realnvp.files.folders import keep_last
from realnvp.files.records import DamagedError, fields_of
from realnvp.files.run_dir import RunDir

GIVEN = "config.given.json"
# The data may have decided these.
LEFT_OPEN = ("levels", "background", "colours", "depth", "crop", "given", "given_values")


@contextmanager
def data_kept_if_begun(files: RunDir) -> Iterator[None]:
    """Context: a training begins. If that fails, the data that it prepared are deleted."""
    new = not files.data.exists()
    try:
        yield
    except BaseException as error:
        if new and not files.begun:
            # The failed frames still hold the memory-mapped arrays: Windows would not delete them.
            traceback.clear_frames(error.__traceback__)
            discard_prepared(files.data)
        raise


def check_may_train(config: Config, files: RunDir) -> None:
    """ValueError: the run directory is not this training's; names the fields or files that differ.

    Some fields may change: budgets, and the steps between evaluations, samples and checkpoints.
    """
    source = config.data.source and os.path.realpath(config.data.source)
    if source in (os.path.realpath(files.path), os.path.realpath(files.data)):
        raise ParameterError("run_dir", f"{files.path} is also data.source, which is only read")
    if files.path.exists() and not files.path.is_dir():
        raise ParameterError("run_dir", f"{files.path} is a file; name a folder")
    if not files.begun:
        _check_files_of_others(files)
    elif files.config_file.exists():  # else its first sitting ended before it wrote one
        old = files.config
        if old.data.shape is None:
            raise DamagedError(f"{files.config_file}: data.shape is missing")
        decided = {name: getattr(old.data, name) for name in LEFT_OPEN}
        now = resolve(
            config, old.data.shape, old.data.columns, old.data.class_names, decided=decided
        )
        if changed := [name for name in differences(old, now) if name not in MAY_CHANGE]:
            was, asked = flat(old), flat(now)
            others = ", ".join(f"{name} ({was[name]!r}, not {asked[name]!r})" for name in changed)
            raise ValueError(
                f"{files.config_file}: this run was started with another {others}; "
                "take another --run-dir"
            )


def _check_files_of_others(files: RunDir) -> None:
    """ValueError names a file that a training would write over.

    A configuration is kept, see `begin_sitting`.
    """
    if files.config_file.exists():
        try:
            read_config(files.config_file)
        except ValueError as error:
            raise ValueError(f"{error}; so it is not replaced: take another --run-dir") from None
    for path in [files.metrics_file, *sorted((files.path / "samples").glob("step-*.png"))]:
        if path.exists():
            raise ValueError(
                f"{path}: is not of this training, so it is not replaced: take another --run-dir"
            )


def check_data(files: RunDir, splits: Dataset) -> None:
    """ValueError: the run was trained on other data."""
    if changed := files.changed_data(splits.folder, splits.sha256):
        raise ValueError(f"{changed}; take another --run-dir")


Past = tuple[list[Sitting], list[str]]


def earlier_sittings(files: RunDir, state: TrainState) -> Past:
    """The sittings so far, and the lines of metrics.jsonl up to this state.

    DamagedError: a file makes no sense.
    """
    path = files.metrics_file
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    sittings = files.sittings if files.sittings_file.exists() else []
    return sittings, [
        line for line in lines if _place_of(line, path) <= (state.step, not state.pending)
    ]


def begin_sitting(
    config: Config, files: RunDir, state: TrainState, past: Past, **where: Any
) -> list[str]:
    """Write config.json, environment.json with this sitting, metrics.jsonl without steps to come.

    past: `earlier_sittings`.
    where: the fields of the sitting that its training knows, such as device and precision.
    Keeps a configuration that somebody wrote there as config.given.json, if it differs.
    Returns what has changed since the last sitting and changes the bits of the steps, in words.
    """
    begun = files.sittings_file.exists()
    for folder in (files.path, files.models, files.checkpoints, files.samples):
        folder.mkdir(parents=True, exist_ok=True)
        if begun:
            sweep(folder)
    if not begun:
        _keep_given(config, files)
    keep_last(files.checkpoints, "step", 2)  # one more is left if the last save was interrupted
    sittings, metrics = past
    here = present_sitting(from_step=state.step, **where)
    write_file(files.config_file, to_json(config))
    write_file(
        files.sittings_file, json.dumps([*map(fields_of, [*sittings, here])], indent=2) + "\n"
    )
    write_file(files.metrics_file, "".join(metrics))
    return _changes(sittings[-1], here) if sittings and state.step else []


def _changes(before: Sitting, here: Sitting) -> list[str]:
    """'threads 2 -> 1' and the like; version 0.1.0 did not record all of it."""
    names = ["device", "processes", "precision", *(["threads"] if here.device == "cpu" else [])]
    pairs = [
        *(
            (name, getattr(before, name) or getattr(here, name), getattr(here, name))
            for name in names
        ),
        ("torch", before.versions.get("torch"), here.versions["torch"]),
    ]
    return [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]


def _keep_given(config: Config, files: RunDir) -> None:
    path, kept = files.config_file, files.path / GIVEN
    if path.exists() and not kept.exists():
        given = read_config(path)
        if any(flat(given)[name] is not None for name in differences(given, config)):
            write_file(kept, path.read_text(encoding="utf-8"))


def _place_of(line: str, path: Path) -> tuple[float, bool]:
    """The step of a line of metrics.jsonl, and whether it is an evaluation's.

    Infinity: the last line was not finished.
    """
    if not line.endswith("\n"):
        return math.inf, True
    try:
        entry = json.loads(line)
        return float(entry["step"]), "validation_standard_error" in entry
    except (ValueError, KeyError, TypeError):
        raise DamagedError(f"{path}: not the metrics of a training") from None
