"""The processes of a training: one, or several that a launcher started, each with its device."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)

from realnvp.config import TrainConfig
from realnvp.config.errors import ParameterError
from realnvp.tools.device import pick_device
from realnvp.training.trackers import check_tracker


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
