"""Flows in files: saved, in a run or its checkpoints, in the package, on the Hugging Face Hub."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from realnvp.config.fields import Config
from realnvp.config.json import from_json, to_json
from realnvp.flows.build import build
from realnvp.flows.flow import Flow, refuse_fast
from realnvp.io.files import DamagedError, read_safetensors, write_safetensors

WEIGHTS = "model.safetensors"  # of a folder that `realnvp.hub.package` writes
FOLDER = Path(__file__).parents[1] / "pretrained"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
BESIDE = ("optimizer.", "average.", "detector.")
"""Prefixes of tensors that are not the flow's own; averages take the place of its weights."""


def pretrained() -> list[str]:
    """Names of the trained flows inside the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def save_flow(flow: Flow, path: str | Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write a .safetensors file that `load_flow` reads; facts: any JSON, kept with it.

    ValueError: the flow has no configuration, or is `Flow.fast` or conditioned on a value.
    """
    tensors, metadata = flow_contents(flow)
    write_safetensors(Path(path), tensors, metadata | {"facts": dict(facts or {})})


def flow_contents(flow: Flow) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata, the configuration, of a file that `load_flow` reads."""
    refuse_fast(flow, "save")
    if flow.config is None:
        raise ValueError("this flow has no configuration: save its state_dict() instead")
    if flow.config.model.context_dim and flow.condition is None:
        raise ValueError("this flow is conditioned on a value: save the flow that it was made from")
    return flow.state_dict(), {"config": json.loads(to_json(flow.config))}


def load_flow(where: str | Path, which: Literal["best", "last"] = "best") -> Flow:
    """Load a flow; it is in eval mode, on the CPU.

    where: a .safetensors file, a run directory or a folder of `realnvp package`; the name of a flow
        inside this package, such as photos-32; user/name or user/name@revision on the Hugging Face
        Hub. In this order.
    which: of a run, the model with the best validation or the last evaluated one. Of a run without
        an evaluation it is the newest checkpoint, with averaged weights.

    ValueError: there is no such flow. DamagedError: the file is not as it was written.
    """
    return load_model(where, which)[0]


@torch.inference_mode(False)  # or its weights could not be trained
def load_model(
    where: str | Path, which: Literal["best", "last"] = "best"
) -> tuple[Flow, dict[str, Any]]:
    """Load a flow, as `load_flow` does, and its facts: of a run, step and validation bits/dim."""
    tensors, metadata = read_model(where, which)
    with torch.device("meta"):
        flow = build(from_json(json.dumps(metadata["config"]), where))
    flow.load_state_dict(weights_of(tensors, averaged=True), assign=True)
    flow.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as `build`
    state = metadata.get("state")
    return flow.eval(), {"step": state["step"]} if state else dict(metadata.get("facts", {}))


def load_config(where: str | Path) -> Config:
    """The configuration of the flow that `load_flow` would load."""
    return from_json(json.dumps(read_model(where)[1]["config"]), where)


def read_model(
    where: str | Path, which: Literal["best", "last"] = "best"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of the file that `load_flow` would load."""
    path = locate(where)
    if path.is_file():
        return read_safetensors(path)
    if (model := path / "model" / f"{which}.safetensors").exists():
        return read_safetensors(model)
    if (newest := newest_checkpoint(path)) is None:
        raise ValueError(f"{path}: neither a saved flow nor a run with a model or checkpoint")
    return newest


def weights_of(tensors: Mapping[str, Tensor], *, averaged: bool = False) -> dict[str, Tensor]:
    """The flow's own tensors in a file; averaged: with averages in the place of weights."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(BESIDE)}
    return own | below("average", tensors) if averaged else own


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors PREFIX.NAME of a file, by NAME."""
    start = f"{prefix}."
    return {name[len(start) :]: each for name, each in tensors.items() if name.startswith(start)}


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


def locate(where: str | Path) -> Path:
    """The .safetensors file or run directory that a name of `load_flow` means.

    ValueError: there is none here. huggingface_hub's errors: nor on the Hub.
    """
    path, name = Path(where), str(where)
    if (path / WEIGHTS).exists():
        return path / WEIGHTS
    if path.exists():
        return path
    if name in pretrained():
        return FOLDER / f"{name}.safetensors"
    if not HUB_ID.fullmatch(name) or path.parent.exists():
        names = ", ".join(pretrained())
        raise ValueError(f"{name}: no such file or run directory, nor one of {names}")
    from huggingface_hub import hf_hub_download

    repo_id, _, revision = name.partition("@")
    return Path(hf_hub_download(repo_id, WEIGHTS, revision=revision or None))
