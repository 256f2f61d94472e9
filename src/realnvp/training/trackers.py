"""Curves beside metrics.jsonl: TensorBoard, or another tracker through Accelerate."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from realnvp.config import Config, flat
from realnvp.config.errors import ParameterError, one_line


def check_tracker(name: str) -> None:
    """ValueError: the tracker's package is not installed. Accelerate would do without it."""
    if name not in ("none", *(tracker.value for tracker in get_available_trackers())):
        package = "'realnvp[train]'" if name == "tensorboard" else name
        raise ValueError(
            f"train.tracker: {name} is not installed: "
            f"pip install {package}, or --train.tracker none"
        )


def start_tracker(accelerator: Accelerator, config: Config, run_dir: Path, *, step: int) -> None:
    """Begin curves, or go on with them from this step. ValueError: the tracker does not start."""
    name = config.train.tracker
    if name == "none":
        return
    if name == "tensorboard":
        try:
            str(run_dir).encode()
        except UnicodeEncodeError:
            raise ParameterError(
                "run_dir",
                f"{run_dir}: TensorBoard takes UTF-8 names only; --train.tracker none takes others",
            ) from None
        accelerator.init_trackers("curves", init_kwargs={name: {"purge_step": step + 1}})
        return
    options = {
        "wandb": {"name": run_dir.name, "group": run_dir.name, "dir": str(run_dir)},
        "dvclive": {"dir": str(run_dir / name)},
    }
    fields = {
        key: value if isinstance(value, int | float) else str(value)
        for key, value in flat(config).items()
    }
    try:
        accelerator.init_trackers("realnvp", config=fields, init_kwargs=options)
    except Exception as error:  # of kinds of its own
        instead = "WANDB_MODE=offline" if name == "wandb" else "--train.tracker tensorboard"
        raise ValueError(
            f"train.tracker: {name} does not start: {one_line(error)[:300]}; "
            f"{instead} needs no account"
        ) from None


def log_curves(
    accelerator: Accelerator, run_dir: Path, values: Mapping[str, float], *, step: int
) -> None:
    """Add a point to the curves.

    If a service fails, warn once and go on without it: metrics.jsonl has every point.
    """
    try:
        accelerator.log(dict(values), step=step)
    except Exception as error:
        _give_up(accelerator, error)


def end_tracker(accelerator: Accelerator) -> None:
    """Close what is open, and leave the process group."""
    try:
        accelerator.end_training()
    except Exception as error:
        _give_up(accelerator, error)
        accelerator.end_training()


def _give_up(accelerator: Accelerator, error: Exception) -> None:
    names = [tracker.name for tracker in accelerator.trackers]
    if names in ([], ["tensorboard"]):  # a file of the run: its disk is full, say
        raise error
    accelerator.trackers.clear()
    warnings.warn(
        f"train.tracker: {names[0]} failed, so the training goes on without it: "
        f"{one_line(error)[:300]}",
        stacklevel=3,
    )
