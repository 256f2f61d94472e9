"""Who may train in a run directory, and what a sitting makes of what earlier ones left there."""

import json
import math
import os
import re
import signal
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)

from realnvp.config import (
    MAY_CHANGE,
    Config,
    TrainConfig,
    differences,
    flat,
    read_config,
    resolve,
    to_json,
)
from realnvp.config.errors import ParameterError
from realnvp.data import Dataset, discard_prepared
from realnvp.device import pick_device
from realnvp.io.checkpoint import TrainState
from realnvp.io.files import DamagedError, fields_of, remove_stale, write_text
from realnvp.io.run_dir import RunDir, Session, current_session
from realnvp.training.trackers import check_tracker


class TrainingStopped(Exception):
    """A signal asked the training to stop; it has saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; the same command goes on from there")
        self.exit_code = 128 + signum


@contextmanager
def stop_signals(*, aloud: bool) -> Iterator[list[int]]:
    """Context: a list gets the number of a SIGINT or SIGTERM that comes. A second acts at once.

    aloud: say so, since a step may take a minute.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return

    def receive(signum: int, frame: Any) -> None:
        received.append(signum)
        if aloud:  # written past sys.stderr, in which the signal may have come
            os.write(
                2, b"\nrealnvp: stopping after this step, and saving; a second time: at once\n"
            )
        signal.signal(
            signum, signal.SIG_DFL if signum == signal.SIGTERM else signal.default_int_handler
        )

    old = {signum: signal.signal(signum, receive) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


class TrainingFailed(Exception):
    """The loss or its gradient is not finite, again and again; or another process is gone."""

    exit_code = 1


@contextmanager
def joined_processes(recipe: TrainConfig, folder: Path, device: str) -> Iterator[Accelerator]:
    """Context: Accelerate's view of the processes and of their device.

    folder: where curves go.
    ValueError: they cannot work together on the device. TrainingFailed: another process has ended
    or does not answer.
    """
    place, processes = pick_device(device), int(os.environ.get("WORLD_SIZE", 1))
    check_tracker(recipe.tracker)
    if place.type == "mps" and recipe.precision == "float64":
        raise ValueError("train.precision: mps has no float64")
    if place.type == "cuda" and processes > 1:
        _check_one_gpu_each(place)
    elif place.index is not None:
        torch.cuda.set_device(place)  # Accelerate takes the current one
    with _failing_with_others(recipe.timeout), _own_state(several=processes > 1):
        accelerator = Accelerator(
            cpu=place.type == "cpu",
            mixed_precision="no",  # `train_step` casts
            # Else a variable of the environment decides.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            log_with=None if recipe.tracker == "none" else recipe.tracker,
            project_dir=folder,
            kwargs_handlers=[
                # Moments are taken over the global batch, so all processes have them already.
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(seconds=recipe.timeout)),
            ],
        )
        if accelerator.num_processes != processes:
            raise ParameterError(
                "device", f"{place}: the {processes} processes cannot be joined on it"
            )
        if device != "auto" and accelerator.device.type != place.type:
            variables = {"ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU"} & {*os.environ}
            who = " and ".join(sorted(variables)) or "Accelerate"
            raise ParameterError("device", f"{place}, but {who} says {accelerator.device}")
        with warnings.catch_warnings():
            # DDP sums gradients in another order of memory than that of matrices seen as filters.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            yield accelerator


@contextmanager
def _failing_with_others(timeout: float) -> Iterator[None]:
    """Context: TrainingFailed if another process has ended or does not answer."""
    try:
        yield
    except RuntimeError as error:  # torch's own, of no kind of its own on CPUs
        if not re.search("gloo|NCCL|TCPStore|client socket", str(error)):
            raise
        reason = re.sub(r"^\[\S+\] ", "", str(error)).split(". ")[0]
        raise TrainingFailed(
            f"another process has ended, or has not answered for train.timeout = {timeout:g} "
            f"seconds: {reason}; the same command goes on from the last checkpoint"
        ) from None


@contextmanager
def _own_state(*, several: bool) -> Iterator[None]:
    """Context: Accelerate has no state of an earlier training in this process, such as its device.

    Afterwards it has that state again. several: nothing is forgotten, so joined processes stay so.
    """
    kinds = () if several else (AcceleratorState, GradientState, PartialState)
    kept = [(kind._shared_state, dict(kind._shared_state)) for kind in kinds]
    for state, _ in kept:
        state.clear()
    try:
        yield
    finally:
        for state, before in kept:
            state.clear()
            state.update(before)


def _check_one_gpu_each(place: torch.device) -> None:
    """ValueError: the processes that a launcher started here cannot have a GPU each."""
    if place.index is not None:
        raise ParameterError(
            "device", f"{place}: of several processes each takes a GPU of its own; name cuda"
        )
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if processes > gpus:
        raise ValueError(
            f"--nproc-per-node: {processes} processes, "
            f"but this machine has {gpus} GPU{'s' * (gpus > 1)}; one each"
        )


GIVEN = "config.given.json"
# The data may have decided these.
LEFT_OPEN = (
    "levels",
    "background",
    "color_mode",
    "bit_depth",
    "crop",
    "context_columns",
    "context_values",
)


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


Past = tuple[list[Session], list[str]]


def earlier_sittings(files: RunDir, state: TrainState) -> Past:
    """The sittings so far, and the lines of metrics.jsonl up to this state.

    DamagedError: a file makes no sense.
    """
    path = files.metrics_file
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    sessions = files.sessions if files.sessions_file.exists() else []
    return sessions, [
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
    begun = files.sessions_file.exists()
    for folder in (files.path, files.models, files.checkpoints, files.samples):
        folder.mkdir(parents=True, exist_ok=True)
        if begun:
            remove_stale(folder)
    if not begun:
        _keep_given(config, files)
    sessions, metrics = past
    here = current_session(from_step=state.step, **where)
    write_text(files.config_file, to_json(config))
    write_text(
        files.sessions_file, json.dumps([*map(fields_of, [*sessions, here])], indent=2) + "\n"
    )
    write_text(files.metrics_file, "".join(metrics))
    return _changes(sessions[-1], here) if sessions and state.step else []


def _changes(before: Session, here: Session) -> list[str]:
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
        context = read_config(path)
        if any(flat(context)[name] is not None for name in differences(context, config)):
            write_text(kept, path.read_text(encoding="utf-8"))


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
