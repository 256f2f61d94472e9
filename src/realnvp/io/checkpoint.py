"""Checkpoints: a training's weights, optimizers and state in one file each, without pickle."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realnvp.flows.flow import Flow
from realnvp.io.files import DamagedError, read_safetensors, write_safetensors
from realnvp.io.pretrained import flow_contents, weights_of

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


def save_checkpoint(
    run_dir: Path,
    state: TrainState,
    *,
    flow: Flow,
    optimizers: Sequence[torch.optim.Optimizer],
    averages: Mapping[str, Tensor],
) -> None:
    """Write checkpoints/step-N.safetensors, and keep the last two checkpoints.

    averages: the moving averages of the weights, by name.
    """
    names = {weight: name for name, weight in flow.named_parameters()}
    tensors, metadata = flow_contents(flow)
    tensors |= {
        f"optimizer.{names[weight]}.{entry}": value
        for optimizer in optimizers
        for weight, entries in optimizer.state.items()
        for entry, value in entries.items()
    }
    tensors |= {f"average.{name}": tensor for name, tensor in averages.items()}
    folder = run_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(
        folder / f"step-{state.step:09d}.safetensors",
        tensors,
        metadata | {"state": asdict(state)},
    )
    for old in checkpoints_in(run_dir)[:-KEPT]:
        old.unlink()


def load_checkpoint(
    run_dir: Path,
    *,
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
    for key, tensor in tensors.items():
        if not key.startswith("optimizer."):
            continue
        name, entry = key.removeprefix("optimizer.").rsplit(".", 1)
        weight = parameters[name]
        # The fused Adam assumes that its tensors have the memory layout of the weight.
        like = torch.empty((), device=weight.device) if entry == "step" else weight.detach()
        moved = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        owners[weight].state[weight][entry] = moved
    for name, mean in averages.items():
        mean.copy_(tensors[f"average.{name}"])
    return TrainState(**metadata["state"])


def checkpoints_in(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, by step."""
    return sorted((run_dir / "checkpoints").glob(f"step-{'[0-9]' * 9}.safetensors"))


def newest_checkpoint(run_dir: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and metadata of the newest intact checkpoint. None: there is no checkpoint.

    Warns of newer ones that are damaged. DamagedError: none is intact.
    """
    complaints = []
    for path in reversed(checkpoints_in(run_dir)):
        try:
            newest = read_safetensors(path)
        except DamagedError as error:
            complaints.append(str(error))
            continue
        for complaint in complaints:
            warnings.warn(f"{complaint}; an older checkpoint is used", stacklevel=3)
        return newest
    if complaints:
        raise DamagedError("; ".join(complaints))
    return None
