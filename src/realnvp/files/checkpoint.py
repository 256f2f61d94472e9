"""Checkpoints that a training goes on from: safetensors and JSON, no pickle."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from torch import Tensor

from realnvp.files.folders import keep_last, newest_intact, write_folder
from realnvp.files.records import DamagedError, damaged_if_invalid, parse_record
from realnvp.files.saved import CONFIG, read_tensors
from realnvp.flows.flow import Flow

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


class Averages(Protocol):
    """The moving averages of the weights."""

    tensors: dict[str, Tensor]
    """By name of the weight."""


def save_checkpoint(
    run_dir: Path,
    state: TrainState,
    *,
    flow: Flow,
    optimizers: Sequence[torch.optim.Optimizer],
    average: Averages,
) -> None:
    """Write checkpoints/step-N: the flow's state, averages, the optimisers' state, where it stands.

    The last two are kept.
    """
    tensors = {f"flow.{name}": tensor for name, tensor in flow.state_dict().items()}
    kept = {
        parameter: entries
        for optimizer in optimizers
        for parameter, entries in optimizer.state.items()
    }
    for name, parameter in flow.named_parameters():
        tensors |= {
            f"optimizer.{name}.{entry}": value for entry, value in kept.get(parameter, {}).items()
        }
    tensors |= {f"average.{name}": tensor for name, tensor in average.tensors.items()}
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    parent = run_dir / "checkpoints"
    write_folder(
        parent / f"step-{state.step:09d}",
        {TENSORS: content, STATE: json.dumps(asdict(state)).encode()},
    )
    keep_last(parent, "step", 2)


def load_checkpoint(
    run_dir: Path, *, flow: Flow, optimizers: Sequence[torch.optim.Optimizer], average: Averages
) -> tuple[TrainState, list[str]]:
    """Load the newest intact checkpoint into flow, optimisers and average.

    Returns where the training stood, and complaints about newer checkpoints. No checkpoints: a new
    state, and nothing is loaded. DamagedError: there are checkpoints, and none is intact.
    """
    files, complaints = newest_intact(run_dir / "checkpoints", "step")
    if files is None:
        if complaints:
            raise DamagedError("; ".join(complaints))
        return TrainState(), []
    path = run_dir / "checkpoints" / TENSORS
    tensors = read_tensors(files.get(TENSORS, b""), path)
    parameters = dict(flow.named_parameters())
    groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
    owners = {parameter: optimizer for optimizer, group in groups for parameter in group["params"]}
    try:
        flow.load_state_dict(
            {
                name.removeprefix("flow."): tensor
                for name, tensor in tensors.items()
                if name.startswith("flow.")
            }
        )
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                name, entry = key.removeprefix("optimizer.").rsplit(".", 1)
                # In the memory layout of the parameter, which the fused Adam takes for granted.
                like = (
                    torch.empty((), device=parameters[name].device)
                    if entry == "step"
                    else parameters[name].detach()
                )
                owners[parameters[name]].state[parameters[name]][entry] = torch.empty_like(
                    like, dtype=tensor.dtype
                ).copy_(tensor)
        for name, mean in average.tensors.items():
            mean.copy_(tensors[f"average.{name}"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise DamagedError(
            f"{path}: does not fit {CONFIG}: {str(error).splitlines()[-1].strip()}"
        ) from None
    return state_of(files, path.parent), complaints


def state_of(files: dict[str, bytes], folder: Path) -> TrainState:
    """Where the training stood, by the files of a checkpoint in this folder."""
    with damaged_if_invalid():
        return parse_record(TrainState, files.get(STATE, b""), folder / STATE)
