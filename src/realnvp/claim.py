"""A run directory belongs to one training: which may go on in it, and what of its past counts."""

import json
import math
import os
from pathlib import Path
from typing import Any

from realnvp.checkpoint import TrainState, read_run_config
from realnvp.config import MAY_CHANGE, Config, differences, resolve, to_json
from realnvp.data import discard_prepared
from realnvp.environment import environment, read_sittings
from realnvp.folders import DamagedError, keep_last, sweep, write_file


def discard_unbegun(run_dir: Path) -> None:
    """Delete the data of a training that never began."""
    if not (run_dir / "config.json").exists():
        discard_prepared(run_dir / "data")


def check_claim(config: Config, run_dir: Path) -> None:
    """ValueError names the fields in which the run directory's configuration differs, but for those that may change."""
    source = config.data.source and os.path.realpath(config.data.source)
    if source in (os.path.realpath(run_dir), os.path.realpath(run_dir / "data")):
        raise ValueError(f"--run-dir: {run_dir} is also data.source, which is only read")
    path = run_dir / "config.json"
    if not path.exists():
        return
    old = read_run_config(run_dir)
    if old.data.shape is None:
        raise DamagedError(f"{path}: data.shape is missing")
    now = resolve(config, old.data.shape, old.data.columns)
    if changed := [name for name in differences(old, now) if name not in MAY_CHANGE]:
        raise ValueError(f"{path}: this run was started with another {', '.join(changed)}; take another --run-dir")


Past = tuple[list[dict[str, Any]], list[str]]


def past_of(run_dir: Path, state: TrainState) -> Past:
    """The sittings so far, and the lines of metrics.jsonl up to this state; DamagedError if they make no sense."""
    path = run_dir / "metrics.jsonl"
    sittings = read_sittings(run_dir) if (run_dir / "environment.json").exists() else []
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    return sittings, [line for line in lines if _place_of(line, path) <= (state.step, not state.pending)]


def claim(config: Config, run_dir: Path, state: TrainState, past: Past, **where: Any) -> list[str]:
    """Make run_dir this training's, from here on: folders, config.json, environment.json, no metrics of steps to come.

    What decides the bits of its steps and is not as in the sitting before, in words.
    """
    for folder in (run_dir, run_dir / "model", run_dir / "checkpoints", run_dir / "samples"):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    keep_last(run_dir / "checkpoints", "step", 2)  # one more is left if the last save was interrupted
    sittings, metrics = past
    here = {"from_step": state.step} | environment() | where
    changes = _changes(sittings[-1], here) if sittings and state.step else []
    sittings = [*sittings, here]
    write_file(run_dir / "config.json", to_json(config))
    write_file(run_dir / "environment.json", json.dumps(sittings, indent=2) + "\n")
    write_file(run_dir / "metrics.jsonl", "".join(metrics))
    return changes


def _changes(before: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """'threads 2 -> 1' and the like; version 0.1.0 did not record all of it."""
    names = ["device", "processes", "precision", *(["threads"] if here["device"] == "cpu" else [])]
    pairs = [(name, before.get(name, here[name]), here[name]) for name in names]
    pairs.append(("torch", before["versions"].get("torch"), here["versions"]["torch"]))
    return [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]


def _place_of(line: str, path: Path) -> tuple[float, bool]:
    """The step of a line of metrics.jsonl, and whether it is its evaluation's; infinity for a last line that was not finished."""
    if not line.endswith("\n"):
        return math.inf, True
    try:
        entry = json.loads(line)
        return float(entry["step"]), "validation_standard_error" in entry
    except (ValueError, KeyError, TypeError):
        raise DamagedError(f"{path}: not the metrics of a training") from None
