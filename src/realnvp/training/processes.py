"""Several processes, started by torchrun: one for each GPU, or a few on CPUs."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from realnvp.device import pick_device
from realnvp.flows.flow import Flow


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
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def gather(self, values: Tensor) -> Tensor:
        """(count, *values.shape): the values of all processes."""
        if self.count == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(parts, values)
        return torch.stack(parts)

    def wait(self) -> None:
        """Wait for the other processes."""
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

    timeout: seconds that a process waits for another.
    TrainingFailed: another process has ended, or has not answered in time.
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
