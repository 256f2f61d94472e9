"""A run directory: the files that a training writes, by name, and its checkpoints."""

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import realnvp
from realnvp.config.fields import Config
from realnvp.config.json import read_config
from realnvp.device import processor
from realnvp.flows.flow import Flow
from realnvp.io.files import read_json, write_safetensors
from realnvp.io.pretrained import (
    below,
    checkpoints_in,
    flow_contents,
    newest_checkpoint,
    weights_of,
)

KEPT = 2  # checkpoints of a run


@dataclass
class TrainState:
    """Where a training stands, beside its tensors."""

    step: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    typical_norm: float = 0.0
    skipped: int = 0
    best: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    pending: bool = False
    """Whether the evaluation and the samples that are due after this step are still to come."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One command of a training, and its environment: an entry of environment.json."""

    time: str
    """ISO 8601, UTC."""
    command: list[str]
    versions: dict[str, str]
    platform: str
    processor: str
    threads: int
    gpus: list[str]
    device: str
    processes: int
    precision: str
    data: dict[str, str]
    """The sha256 of each array that was trained on."""
    init_from: str | None = None
    """The flow whose weights the training started with, as the command named it."""

    @property
    def shell_command(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(self.command)


def current_session(**fields: Any) -> Session:
    """This process as a session; fields: those that its training knows, such as device."""
    return Session(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=["realnvp", *sys.argv[1:]],
        versions={
            "realnvp": realnvp.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        platform=platform.platform(),
        processor=processor(),
        threads=torch.get_num_threads(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        **fields,
    )


class RunDir:
    """The files of a run. Each property reads its file when it is asked for.

    ValueError: there is no such file. DamagedError: a file is not as the training wrote it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.sessions_file = self.path / "environment.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.models = self.path / "model"
        self.samples = self.path / "samples"
        self.data = self.path / "data"

    @property
    def begun(self) -> bool:
        """Whether a training has begun here. A configuration alone may be somebody's."""
        return self.sessions_file.exists() or bool(checkpoints_in(self.path))

    @property
    def config(self) -> Config:
        """The configuration of the run."""
        if not self.config_file.exists():
            raise ValueError(f"{self.path}: no run directory, it has no config.json")
        return read_config(self.config_file)

    @property
    def sessions(self) -> list[Session]:
        """The commands of the training, the last one at the end."""
        return read_json(list[Session], self.sessions_file)

    def check_data(self, folder: Path | None, sha256: Mapping[str, str]) -> None:
        """Check that the run was trained on the folder's data. ValueError: it was not.

        sha256: of each array in the folder; {} if there are none.
        """
        if sha256 and self.sessions_file.exists() and self.sessions[0].data != sha256:
            raise ValueError(f"{folder}: not the data that {self.path} was trained on")


def save_checkpoint(
    run_dir: Path,
    state: TrainState,
    flow: Flow,
    optimizers: Sequence[torch.optim.Optimizer],
    averages: Mapping[str, Tensor],
) -> None:
    """Write checkpoints/step-N.safetensors, and keep the last two checkpoints.

    averages: the moving averages of the weights, by name.
    """
    names: dict[Tensor, str] = {weight: name for name, weight in flow.named_parameters()}
    tensors, metadata = flow_contents(flow)
    tensors |= {
        f"optimizer.{names[weight]}.{entry}": value
        for optimizer in optimizers
        for weight, entries in optimizer.state.items()
        for entry, value in entries.items()
    }
    tensors |= {f"average.{name}": tensor for name, tensor in averages.items()}
    path = run_dir / "checkpoints" / f"step-{state.step:09d}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, tensors, metadata | {"state": asdict(state)})
    for old in checkpoints_in(run_dir)[:-KEPT]:
        old.unlink()


def load_checkpoint(
    run_dir: Path,
    flow: Flow,
    optimizers: Sequence[torch.optim.Optimizer],
    averages: Mapping[str, Tensor],
) -> TrainState:
    """Load the newest intact checkpoint into flow, optimizers and averages.

    A new state, where there are no checkpoints. DamagedError: there are, and none is intact.
    """
    newest = newest_checkpoint(run_dir)
    if newest is None:
        return TrainState()
    tensors, metadata = newest
    flow.load_state_dict(weights_of(tensors))
    parameters = dict(flow.named_parameters())
    owners = {
        weight: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    for key, tensor in below("optimizer", tensors).items():
        name, entry = key.rsplit(".", 1)
        weight = parameters[name]
        # The fused Adam assumes that its tensors have the memory layout of the weight.
        like = torch.empty((), device=weight.device) if entry == "step" else weight.detach()
        moved = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        owners[weight].state[weight][entry] = moved
    for name, mean in averages.items():
        mean.copy_(tensors[f"average.{name}"])
    return TrainState(**metadata["state"])
