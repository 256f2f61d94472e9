"""Checkpoints that a training goes on from: safetensors and JSON, no pickle."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from realnvp.config.errors import last_line
from realnvp.flows.flow import Flow
from realnvp.io.files import (
    DamagedError,
    damaged_if_invalid,
    keep_last,
    newest_intact,
    parse_record,
    read_tensors,
    write_folder,
    write_tensors,
)

TENSORS, STATE = "state.safetensors", "state.json"


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
    """Write checkpoints/step-N, and keep the last two checkpoints.

    state: where the training stands.
    averages: of the weights over steps, by name.
    """
    names: dict[Tensor, str] = {weight: name for name, weight in flow.named_parameters()}
    tensors = {f"flow.{name}": tensor for name, tensor in flow.state_dict().items()}
    tensors |= {
        f"optimizer.{names[weight]}.{entry}": value
        for optimizer in optimizers
        for weight, entries in optimizer.state.items()
        for entry, value in entries.items()
    }
    tensors |= {f"average.{name}": tensor for name, tensor in averages.items()}
    write_folder(
        run_dir / "checkpoints" / f"step-{state.step:09d}",
        {TENSORS: write_tensors(tensors), STATE: json.dumps(asdict(state)).encode()},
    )
    keep_last(run_dir / "checkpoints", "step", 2)


def load_checkpoint(
    run_dir: Path,
    *,
    flow: Flow,
    optimizers: Sequence[torch.optim.Optimizer],
    averages: Mapping[str, Tensor],
) -> tuple[TrainState, list[str]]:
    """Load the newest intact checkpoint into flow, optimisers and averages.

    Returns where the training stood, and complaints about newer checkpoints. No checkpoints: a new
    state, and nothing is loaded. DamagedError: there are checkpoints, and none is intact.
    """
    files, complaints = newest_intact(run_dir / "checkpoints", "step")
    if files is None:
        if complaints:
            raise DamagedError("; ".join(complaints))
        return TrainState(), []
    state = state_of(files, run_dir / "checkpoints")
    path = run_dir / "checkpoints" / f"step-{state.step:09d}" / TENSORS
    tensors = read_tensors(files.get(TENSORS, b""), path)
    parameters = dict(flow.named_parameters())
    owners = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    try:
        flow.load_state_dict(_below("flow", tensors))
        for key, tensor in _below("optimizer", tensors).items():
            name, entry = key.rsplit(".", 1)
            weight = parameters[name]
            # The fused Adam assumes that its tensors have the memory layout of the weight.
            like = torch.empty((), device=weight.device) if entry == "step" else weight.detach()
            moved = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
            owners[weight].state[weight][entry] = moved
        for name, mean in averages.items():
            mean.copy_(tensors[f"average.{name}"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{path}: does not fit config.json: {last_line(error)}") from None
    return state, complaints


def newest_weights(run_dir: Path) -> tuple[TrainState, dict[str, Tensor]] | None:
    """The newest intact checkpoint: where the training stood, and the flow's tensors by name.

    Averaged weights take the place of the last ones. None: there is no checkpoint.
    DamagedError: there are checkpoints, and none is intact. Warns of newer ones that are damaged.
    """
    folder = run_dir / "checkpoints"
    files, complaints = newest_intact(folder, "step")
    if files is None:
        if complaints:
            raise DamagedError("; ".join(complaints))
        return None
    for complaint in complaints:
        warnings.warn(f"{complaint}; an older checkpoint is used", stacklevel=4)
    tensors = read_tensors(files.get(TENSORS, b""), folder / TENSORS)
    return state_of(files, folder), _below("flow", tensors) | _below("average", tensors)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors PREFIX.NAME of a file, by NAME."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def state_of(files: dict[str, bytes], folder: Path) -> TrainState:
    """Where the training stood, by the files of a checkpoint in this folder."""
    with damaged_if_invalid():
        return parse_record(TrainState, files.get(STATE, b""), folder / STATE)
