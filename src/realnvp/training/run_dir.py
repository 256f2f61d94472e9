"""A run directory belongs to one training: which may go on in it, and what of its past counts."""

import json
import math
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realnvp.config import MAY_CHANGE, Config, differences, flat, read_config, resolve, to_json
from realnvp.data import Splits, discard_prepared
from realnvp.files.checkpoint import TrainState
from realnvp.files.environment import Sitting, changed_data, present_sitting, read_sittings
from realnvp.files.folders import keep_last, numbered, sweep, write_file
from realnvp.files.records import DamagedError, fields_of
from realnvp.files.saved import read_run_config

GIVEN = "config.given.json"


def begun(run_dir: Path) -> bool:
    """Whether a training has begun here: a configuration alone may be one that somebody wrote."""
    return (run_dir / "environment.json").exists() or bool(numbered(run_dir / "checkpoints", "step"))


@contextmanager
def data_of_unbegun(run_dir: Path) -> Iterator[None]:
    """Within it a training begins; if it does not, the data that it prepared are deleted."""
    new = not (run_dir / "data").exists()
    try:
        yield
    except BaseException as error:
        if new and not begun(run_dir):
            # The frames that failed hold the arrays, memory-mapped: Windows deletes no such file.
            traceback.clear_frames(error.__traceback__)
            discard_prepared(run_dir / "data")
        raise


def check_claim(config: Config, run_dir: Path) -> None:
    """ValueError if the run directory is not for this training: it names the fields that differ, or others' files.

    Some fields may change: budgets, and how often a training looks at itself.
    """
    source = config.data.source and os.path.realpath(config.data.source)
    if source in (os.path.realpath(run_dir), os.path.realpath(run_dir / "data")):
        raise ValueError(f"--run-dir: {run_dir} is also data.source, which is only read")
    path = run_dir / "config.json"
    if not begun(run_dir):
        _check_files_of_others(run_dir)
        return
    if not path.exists():  # ended as it began
        return
    old = read_run_config(run_dir)
    if old.data.shape is None:
        raise DamagedError(f"{path}: data.shape is missing")
    now = resolve(config, old.data.shape, old.data.columns)
    if changed := [name for name in differences(old, now) if name not in MAY_CHANGE]:
        raise ValueError(f"{path}: this run was started with another {', '.join(changed)}; take another --run-dir")


def _check_files_of_others(run_dir: Path) -> None:
    """ValueError names a file that a training here would write over; a configuration is kept, see `claim`."""
    if (run_dir / "config.json").exists():
        try:
            read_config(run_dir / "config.json")
        except ValueError as error:
            raise ValueError(f"{error}; so it is not replaced: take another --run-dir") from None
    if (path := run_dir / "metrics.jsonl").exists():
        raise ValueError(f"{path}: is not of this training, so it is not replaced: take another --run-dir")


def check_data(run_dir: Path, splits: Splits) -> None:
    """ValueError if a run was trained on other data than these."""
    if changed := changed_data(run_dir, splits.folder, splits.sha256):
        raise ValueError(f"{changed}; take another --run-dir")


Past = tuple[list[Sitting], list[str]]


def past_of(run_dir: Path, state: TrainState) -> Past:
    """The sittings so far, and the lines of metrics.jsonl up to this state; DamagedError if they make no sense."""
    path = run_dir / "metrics.jsonl"
    sittings = read_sittings(run_dir) if (run_dir / "environment.json").exists() else []
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    return sittings, [line for line in lines if _place_of(line, path) <= (state.step, not state.pending)]


def claim(config: Config, run_dir: Path, state: TrainState, past: Past, **where: Any) -> list[str]:
    """Make run_dir this training's, from here on: folders, config.json, environment.json, no metrics of steps to come.

    What decides the bits of its steps and is not as in the sitting before, in words.
    A configuration that somebody wrote there and that says something else goes to config.given.json.
    """
    ours = (run_dir / "environment.json").exists()
    for folder in (run_dir, run_dir / "model", run_dir / "checkpoints", run_dir / "samples"):
        folder.mkdir(parents=True, exist_ok=True)
        if ours:
            sweep(folder)
    if not ours:
        _keep_given(config, run_dir)
    keep_last(run_dir / "checkpoints", "step", 2)  # one more is left if the last save was interrupted
    sittings, metrics = past
    here = present_sitting(from_step=state.step, **where)
    changes = _changes(sittings[-1], here) if sittings and state.step else []
    sittings = [*sittings, here]
    write_file(run_dir / "config.json", to_json(config))
    write_file(run_dir / "environment.json", json.dumps([*map(fields_of, sittings)], indent=2) + "\n")
    write_file(run_dir / "metrics.jsonl", "".join(metrics))
    return changes


def _changes(before: Sitting, here: Sitting) -> list[str]:
    """'threads 2 -> 1' and the like; version 0.1.0 did not record all of it."""
    names = ["device", "processes", "precision", *(["threads"] if here.device == "cpu" else [])]
    pairs = [(name, getattr(before, name) or getattr(here, name), getattr(here, name)) for name in names]
    pairs.append(("torch", before.versions.get("torch"), here.versions["torch"]))
    return [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]


def _keep_given(config: Config, run_dir: Path) -> None:
    path = run_dir / "config.json"
    if path.exists() and not (run_dir / GIVEN).exists():
        given = read_config(path)
        if any(flat(given)[name] is not None for name in differences(given, config)):
            write_file(run_dir / GIVEN, path.read_text(encoding="utf-8"))


def _place_of(line: str, path: Path) -> tuple[float, bool]:
    """The step of a line of metrics.jsonl, and whether it is its evaluation's; infinity for a last line that was not finished."""
    if not line.endswith("\n"):
        return math.inf, True
    try:
        entry = json.loads(line)
        return float(entry["step"]), "validation_standard_error" in entry
    except (ValueError, KeyError, TypeError):
        raise DamagedError(f"{path}: not the metrics of a training") from None
