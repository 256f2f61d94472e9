"""Around a training: its processes, signals to stop, its run directory, and trackers."""

import json
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from realnvp.config.fields import Config
from realnvp.config.json import flat, to_json
from realnvp.device import pick_device
from realnvp.flows.flow import Flow
from realnvp.io.files import remove_stale, write_text
from realnvp.io.run_dir import RunDir, TrainState, current_session

Log = Callable[[Mapping[str, float], int], None]
"""Adds values by name to the curves, at a step."""


class TrainingStopped(Exception):
    """A signal asked the training to stop; it has saved a checkpoint."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; the same command goes on from there")
        self.exit_code = 128 + signum


class TrainingFailed(Exception):
    """The training cannot go on; its last checkpoint is intact."""

    exit_code = 1


@dataclass(frozen=True)
class Processes:
    """The processes of a training, and this process's rank and device."""

    rank: int
    count: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0

    def gather(self, values: Tensor) -> Tensor:
        """The values of all processes, (count, *values.shape)."""
        if self.count == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(parts, values)
        return torch.stack(parts)

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()

    def wrap(self, flow: Flow) -> Any:
        """The flow, with gradients averaged over the processes."""
        if self.count == 1:
            return flow
        devices = [self.device] if self.device.type == "cuda" else None
        # Batch norm takes its moments over the global batch: buffers are equal already.
        return DistributedDataParallel(flow, device_ids=devices, broadcast_buffers=False)


@contextmanager
def joined_processes(device: str, timeout: float) -> Iterator[Processes]:
    """Context: the processes that torchrun started, joined; without torchrun, this process alone.

    TrainingFailed: another process has ended, or has not answered for `timeout` seconds.
    """
    place, count = pick_device(device), int(os.environ.get("WORLD_SIZE", 1))
    if place.type == "cuda":
        if count > 1:
            place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    try:
        if count > 1 and not dist.is_initialized():  # they stay joined for a further training
            backend = "nccl" if place.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        with warnings.catch_warnings():
            # Of DDP: a newer name of an option, and gradients in another order than their buckets.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers|Grad strides")
            yield Processes(int(os.environ.get("RANK", 0)), count, place)
    except RuntimeError as error:  # gloo's errors have no type of their own
        if count == 1 or not re.search("gloo|NCCL|TCPStore|client socket", str(error)):
            raise
        raise TrainingFailed(
            f"another process has ended or has not answered for {timeout:g} s (--train.timeout)"
        ) from error


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Context: a list gets the number of a SIGINT or SIGTERM that comes. A second acts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return
    old = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def receive(signum: int, frame: Any) -> None:
        received.append(signum)
        signal.signal(signum, old[signal.Signals(signum)])
        # Not print: the signal may have come within a write to sys.stderr.
        os.write(2, b"\nrealnvp: stopping after this step\n")

    for signum in old:
        signal.signal(signum, receive)
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def begin_session(config: Config, files: RunDir, state: TrainState, **where: Any) -> None:
    """Write config.json, environment.json with this session, metrics.jsonl without later steps.

    A configuration that somebody wrote there is kept as config.given.json.
    where: the fields of `Session` that its training knows, such as device and precision.
    """
    for folder in (files.models, files.checkpoints, files.samples):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
    sessions = files.sessions if files.sessions_file.exists() else []
    if not sessions and files.config_file.exists():
        files.config_file.replace(files.path / "config.given.json")
    sessions.append(current_session(**where))
    write_text(files.config_file, to_json(config))
    write_text(files.sessions_file, json.dumps([*map(asdict, sessions)], indent=2) + "\n")
    # A resumed training writes the later lines again; a killed process may have left half a line.
    old = files.metrics_file.read_text() if files.metrics_file.exists() else ""
    lines = (line for line in old.splitlines(keepends=True) if line.endswith("\n"))

    def is_of_state(line: str) -> bool:
        is_evaluation = "validation_standard_error" in line
        return (json.loads(line)["step"], is_evaluation) <= (state.step, not state.pending)

    write_text(files.metrics_file, "".join(filter(is_of_state, lines)))


@contextmanager
def tracking(config: Config, run_dir: Path, *, step: int) -> Iterator[Log]:
    """Context: the function that adds points to the curves of `train.tracker`.

    step: where the training stands; TensorBoard drops later points of an interrupted session.
    """
    if config.train.tracker == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(run_dir / "curves"), purge_step=step + 1) as writer:

            def log(values: Mapping[str, float], step: int) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
                writer.flush()

            yield log
    elif config.train.tracker == "wandb":
        import wandb

        name, fields = run_dir.resolve().name, flat(config)
        with wandb.init(project="realnvp", name=name, dir=run_dir, config=fields) as run:
            yield lambda values, step: run.log(dict(values), step=step)
    else:
        yield lambda values, step: None
