"""Files of a training: flows that people load, and checkpoints that a training goes on from. safetensors and JSON, no pickle."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from realnvp.averages import WeightAverage
from realnvp.card import card
from realnvp.config import Config, from_json, least_parameters, read_config, to_json
from realnvp.flow import Flow
from realnvp.folders import CARD, DamagedError, keep_last, newest_intact, ours, parse_json, read_folder, write_folder
from realnvp.locate import CONFIG, FACTS, WEIGHTS, locate
from realnvp.models import build

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
    """Whether the evaluation and the samples after this step, where it is time for them, are still to come."""


def save_flow(flow: Flow, folder: str | Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write a folder that `load_flow` reads: model.safetensors, config.json, facts.json, a manifest of sha256, README.md.

    facts: any JSON. README.md is a model card, which shows of them evaluation (what `realnvp.evaluate.evaluate` gives), commands
    (a list of texts), licence (an identifier as the Hugging Face Hub has them, such as mit), environment and step.
    An earlier such folder is replaced, its card too; ValueError if there is anything else in its place.
    """
    folder, facts = Path(folder), dict(facts or {})
    files = _files_of(flow, facts)
    assert flow.config is not None
    count = sum(parameter.numel() for parameter in flow.parameters())
    text = card(folder.resolve().name, flow.config, facts, parameters=count)
    write_folder(folder, files | {CARD: text.encode()})


def save_model(flow: Flow, folder: Path, *, facts: Mapping[str, Any]) -> None:
    """Write a model of a run: a saved flow without a card."""
    write_folder(folder, _files_of(flow, facts))


def _files_of(flow: Flow, facts: Mapping[str, Any]) -> dict[str, bytes]:
    if not flow.exact:
        raise ValueError("a flow made by realnvp.fast cannot be saved: save the flow that it was made from")
    if flow.config is None:
        raise ValueError("flow.config: only a flow that has one can be saved, since it says how to build the flow again")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in flow.state_dict().items()}
    return {
        WEIGHTS: safetensors.torch.save(tensors),
        CONFIG: to_json(flow.config).encode(),
        FACTS: json.dumps(dict(facts), indent=2).encode(),
    }


def load_flow(where: str | Path, which: Literal["best", "last"] = "best") -> Flow:
    """The flow of a run directory, of a folder that `save_flow` wrote, of that name inside this package (photos-small,
    digits-small), or of that id on the Hugging Face Hub (user/name, user/name@revision), in this order; in eval mode, on the CPU.

    best is the one with the lowest validation bits/dim, last the one of the last evaluation; both with batch norm's moments
    re-estimated. From the Hub only safetensors and JSON are taken. ValueError if there is none; DamagedError if a file has
    changed since it was written.
    """
    return load_model(where, which)[0]


def load_model(where: str | Path, which: Literal["best", "last"] = "best") -> tuple[Flow, dict[str, Any]]:
    """The same flow, and what is known of it: of a run's, its step and validation bits/dim."""
    files, folder = _model_files(where, which)
    flow = _flow_from(from_json(files[CONFIG], folder / CONFIG), files[WEIGHTS], folder / WEIGHTS)
    with ours():
        return flow, parse_json(files[FACTS], folder / FACTS, kind=dict)


def lost_best(run_dir: Path) -> str:
    """What is wrong with a run's best model; '' if it is there and intact."""
    files, complaints = newest_intact(run_dir / "model", "best")
    return "; ".join(complaints) or ("" if files else f"{run_dir / 'model'}: the best model is missing")


def _model_files(where: str | Path, which: str) -> tuple[dict[str, bytes], Path]:
    if which not in ("best", "last"):
        raise ValueError(f"which: must be 'best' or 'last', got {which!r}")
    folder = locate(where)
    if (folder / WEIGHTS).exists():
        files = read_folder(folder)
    else:
        found, complaints = newest_intact(folder / "model", which)
        if found is None:
            raise DamagedError("; ".join(complaints)) if complaints else ValueError(_why_no_flow(folder))
        for complaint in complaints:
            warnings.warn(f"{complaint}; an older model is used", stacklevel=2)
        files = found
    if missing := {WEIGHTS, CONFIG, FACTS} - files.keys():
        raise DamagedError(f"{folder}: its manifest lacks {', '.join(sorted(missing))}")
    return files, folder


def read_run_config(run_dir: Path) -> Config:
    """The configuration of a run directory; ValueError if it is none, DamagedError if the configuration makes no sense."""
    if not (run_dir / CONFIG).exists():
        raise ValueError(_why_no_flow(run_dir))
    with ours():
        return read_config(run_dir / CONFIG)


def _why_no_flow(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: no such run directory or saved flow"
    if (folder / CONFIG).exists():
        return f"{folder}: this run has no model yet; the first is written at step train.eval_every"
    return f"{folder}: neither a run directory nor a saved flow"


def _flow_from(config: Config, weights: bytes, path: Path) -> Flow:
    """The flow, in eval mode. What config.json asks for is not allocated before the weights are seen to be as much."""
    tensors = _tensors(weights, path)
    try:
        if least_parameters(config) > sum(tensor.numel() for tensor in tensors.values()):
            raise ValueError("fewer numbers than it asks for")
        if {tensor.dtype for tensor in tensors.values()} not in ({torch.float32}, {torch.float64}):
            raise ValueError("numbers that are neither all float32 nor all float64")
        with torch.device("meta"):
            flow = build(config)
        flow.load_state_dict(tensors, assign=True)
        flow.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own; as `build` lays them out
    except (RuntimeError, ValueError) as error:
        raise DamagedError(f"{path}: does not fit {CONFIG}: {str(error).splitlines()[-1].strip()}") from None
    return flow.eval()


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{path}: {error}") from None


def save_checkpoint(
    run_dir: Path, state: TrainState, *, flow: Flow, optimizers: Sequence[torch.optim.Optimizer], average: WeightAverage
) -> None:
    """Write checkpoints/step-N: weights, moments, averages, the optimisers' state, where it stands. The last two are kept."""
    tensors = {f"flow.{name}": tensor for name, tensor in flow.state_dict().items()}
    kept = {parameter: entries for optimizer in optimizers for parameter, entries in optimizer.state.items()}
    for name, parameter in flow.named_parameters():
        tensors |= {f"optimizer.{name}.{entry}": value for entry, value in kept.get(parameter, {}).items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.tensors.items()}
    content = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    parent = run_dir / "checkpoints"
    write_folder(parent / f"step-{state.step:09d}", {TENSORS: content, STATE: json.dumps(asdict(state)).encode()})
    keep_last(parent, "step", 2)


def load_checkpoint(
    run_dir: Path, *, flow: Flow, optimizers: Sequence[torch.optim.Optimizer], average: WeightAverage
) -> tuple[TrainState, list[str]]:
    """Put the newest intact checkpoint into all three; its state (a new one if there is none), and complaints on others.

    DamagedError if there are checkpoints and none is intact.
    """
    files, complaints = newest_intact(run_dir / "checkpoints", "step")
    if files is None:
        if complaints:
            raise DamagedError("; ".join(complaints))
        return TrainState(), []
    path = run_dir / "checkpoints" / TENSORS
    tensors = _tensors(files.get(TENSORS, b""), path)
    parameters = dict(flow.named_parameters())
    groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
    owners = {parameter: optimizer for optimizer, group in groups for parameter in group["params"]}
    try:
        flow.load_state_dict({name.removeprefix("flow."): tensor for name, tensor in tensors.items() if name.startswith("flow.")})
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                name, entry = key.removeprefix("optimizer.").rsplit(".", 1)
                # In the memory layout of the parameter, which the fused Adam takes for granted.
                like = torch.empty((), device=parameters[name].device) if entry == "step" else parameters[name].detach()
                owners[parameters[name]].state[parameters[name]][entry] = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        for name, mean in average.tensors.items():
            mean.copy_(tensors[f"average.{name}"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{path}: does not fit {CONFIG}: {str(error).splitlines()[-1].strip()}") from None
    return _state(files, run_dir), complaints


def last_state(run_dir: Path) -> TrainState | None:
    """Where the training stood at its newest intact checkpoint; None if there is none. Warns of damaged ones."""
    files, complaints = newest_intact(run_dir / "checkpoints", "step")
    for complaint in complaints:
        warnings.warn(complaint, stacklevel=2)
    return None if files is None else _state(files, run_dir)


def _state(files: dict[str, bytes], run_dir: Path) -> TrainState:
    fields = get_type_hints(TrainState)
    with ours():
        state = parse_json(files.get(STATE, b""), run_dir / "checkpoints" / STATE, kind=dict, fields=fields)
    return TrainState(**{name: state[name] for name in fields})
