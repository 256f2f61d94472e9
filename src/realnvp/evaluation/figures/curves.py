"""How a training went."""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from realnvp.config.units import unit_of
from realnvp.evaluation.figures import plots
from realnvp.evaluation.figures.run import Array, Drawing, TrainedRun
from realnvp.files.records import DamagedError


def curves(run: TrainedRun) -> Iterator[Drawing]:
    """Bits/dim, or nats a row, of train and validation over steps and over time."""
    path, unit = run.folder / "metrics.jsonl", unit_of(run.config)
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
    try:
        entries = [json.loads(line) for line in lines]
        train = _series(entries, value=f"train_{unit.key}")
        validation = _series(
            entries, value=f"validation_{unit.key}", maybe={"error": "validation_standard_error"}
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DamagedError(f"{path}: not the metrics of a training") from None
    if not len(train["value"]) or not len(validation["value"]):
        raise ValueError(f"{path}: no {unit.words} in it yet")
    parts = {"train": train, "validation": validation}
    arrays = {
        f"{split}-{key}": values for split, part in parts.items() for key, values in part.items()
    }
    yield Drawing("curves", plots.curves(train, validation, unit.words), arrays)


def _series(
    entries: list[dict[str, Any]], *, value: str, maybe: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Array]:
    """Step, seconds and value of the entries that have all three.

    Values that were not finite are null there. maybe: more keys that may be null; nan then.
    """
    keys = {"value": value, "step": "step", "seconds": "seconds"}
    chosen = [
        entry for entry in entries if all(entry.get(key) is not None for key in keys.values())
    ]
    return {
        name: np.array([entry.get(key) for entry in chosen], float)
        for name, key in (keys | {**maybe}).items()
    }
