"""Flows that people load: by a path, a shipped flow's name or an id on the Hub. No pickle."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from realnvp.config import Config, from_json, least_parameters, nearest, to_json
from realnvp.config.words import last_line, one_line
from realnvp.files.card import card
from realnvp.files.folders import CARD, MANIFEST, newest_intact, read_folder, write_folder
from realnvp.files.records import DamagedError, damaged_if_invalid, parse_record
from realnvp.flows.build import build
from realnvp.flows.flow import Flow, config_of, refuse_fast

WEIGHTS, CONFIG, FACTS = "model.safetensors", "config.json", "facts.json"
FILES = (WEIGHTS, CONFIG, FACTS, MANIFEST)  # all that is read of a flow
SHIPPED = Path(__file__).parents[1] / "shipped"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def shipped() -> list[str]:
    """Names of the trained flows inside the package."""
    return sorted(path.name for path in SHIPPED.iterdir())


def locate(where: str | Path) -> Path:
    """The folder of a flow: a path that exists, a shipped flow, or a download from the Hub.

    where: a path; photos-small, digits-small; user/name or user/name@revision. It is looked for in
    this order, and on the Hub only where there is no folder `user`.
    ValueError says what was tried.
    """
    folder, name = Path(where), str(where)
    if folder.exists():
        return folder
    if name in shipped():
        return SHIPPED / name
    tried = (
        f"{name}: no such run directory or saved flow, and no shipped flow"
        f"{nearest(name, shipped())}: {', '.join(shipped())}"
    )
    if not HUB_ID.fullmatch(name) or folder.parent.exists():
        raise ValueError(tried)
    return _download(name, tried)


def _download(name: str, tried: str) -> Path:
    """The folder of a flow from the Hub, or from its cache on this machine; no other files."""
    repo_id, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise ValueError(
            f"{tried}; if it is on the Hugging Face Hub: pip install 'realnvp[hub]'"
        ) from None
    try:
        folder = Path(
            snapshot_download(repo_id, revision=revision or None, allow_patterns=[*FILES])
        )
    except Exception as error:  # also of kinds that the Hub's client, and its version, have
        raise ValueError(
            f"{tried}; nor does the Hugging Face Hub give it: {one_line(error)[:300]}"
        ) from None
    if missing := [file for file in FILES if not (folder / file).exists()]:
        raise ValueError(
            f"{name}: no flow of realnvp: "
            f"this repository of the Hugging Face Hub lacks {', '.join(missing)}"
        )
    return folder


def save_flow(flow: Flow, folder: str | Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write a folder that `load_flow` reads: weights, configuration, facts, manifest, README.md.

    facts: any JSON. README.md, a model card, shows
        evaluation: what RUN/evaluation.json holds,
        commands: a list of texts,
        licence: an identifier as the Hugging Face Hub has them, such as mit,
        environment and step.
    An earlier such folder is replaced, its card too. ValueError: something else is in its place.
    """
    folder, facts = Path(folder), dict(facts or {})
    files = _files_of(flow, facts)
    text = card(
        folder.resolve().name,
        config_of(flow),
        facts,
        parameters=sum(parameter.numel() for parameter in flow.parameters()),
    )
    write_folder(folder, files | {CARD: text.encode()})


def save_model(flow: Flow, folder: Path, *, facts: Mapping[str, Any]) -> None:
    """Write a model of a run: a saved flow without a card."""
    write_folder(folder, _files_of(flow, facts))


def _files_of(flow: Flow, facts: Mapping[str, Any]) -> dict[str, bytes]:
    refuse_fast(flow, "save")
    if flow.config is None:
        raise ValueError(
            "flow.config: only a flow that has one can be saved, "
            "since it says how to build the flow again"
        )
    return {
        WEIGHTS: write_tensors(flow.state_dict()),
        CONFIG: to_json(flow.config).encode(),
        FACTS: json.dumps(dict(facts), indent=2).encode(),
    }


def load_flow(where: str | Path, which: Literal["best", "last"] = "best") -> Flow:
    """Load a flow; it is in eval mode, on the CPU.

    where: a run directory or a folder that `save_flow` wrote; the name of a flow inside this
        package, photos-small or digits-small; an id on the Hugging Face Hub, user/name or
        user/name@revision. In this order.
    which: of a run, best has the lowest validation bits/dim, last is of the last evaluation. Both
        have batch norm's moments re-estimated.
    From the Hub only safetensors and JSON are taken. ValueError: there is no such flow.
    DamagedError: a file has changed since it was written.
    """
    return load_model(where, which)[0]


def load_config(where: str | Path) -> Config:
    """The configuration of a flow that `load_flow` would load."""
    files, folder = _model_files(where, "best")
    return from_json(files[CONFIG], folder / CONFIG)


def load_model(
    where: str | Path, which: Literal["best", "last"] = "best"
) -> tuple[Flow, dict[str, Any]]:
    """Load a flow, as `load_flow` does, and its facts: of a run, step and validation bits/dim."""
    files, folder = _model_files(where, which)
    flow = _flow_from(from_json(files[CONFIG], folder / CONFIG), files[WEIGHTS], folder / WEIGHTS)
    with damaged_if_invalid():
        return flow, parse_record(dict[str, Any], files[FACTS], folder / FACTS)


def _model_files(where: str | Path, which: str) -> tuple[dict[str, bytes], Path]:
    if which not in ("best", "last"):
        raise ValueError(f"which: must be 'best' or 'last', got {which!r}")
    folder = locate(where)
    if (folder / WEIGHTS).exists():
        files = read_folder(folder)
    else:
        found, complaints = newest_intact(folder / "model", which)
        if found is None:
            raise (
                DamagedError("; ".join(complaints))
                if complaints
                else ValueError(why_no_flow(folder))
            )
        for complaint in complaints:
            warnings.warn(f"{complaint}; an older model is used", stacklevel=2)
        files = found
    if missing := {WEIGHTS, CONFIG, FACTS} - files.keys():
        raise DamagedError(f"{folder}: its manifest lacks {', '.join(sorted(missing))}")
    return files, folder


def why_no_flow(folder: Path) -> str:
    """Words for a folder that is no saved flow, nor a run that has a model."""
    if not folder.exists():
        return f"{folder}: no such run directory or saved flow"
    if (folder / CONFIG).exists():
        return f"{folder}: this run has no model yet; the first is written at step train.eval_every"
    return f"{folder}: neither a run directory nor a saved flow"


def _flow_from(config: Config, weights: bytes, path: Path) -> Flow:
    """Build the flow, in eval mode.

    Nothing is allocated before the file is seen to hold as many weights as config.json asks for.
    """
    tensors = read_tensors(weights, path)
    try:
        if least_parameters(config) > sum(tensor.numel() for tensor in tensors.values()):
            raise ValueError("fewer numbers than it asks for")
        if {tensor.dtype for tensor in tensors.values()} not in ({torch.float32}, {torch.float64}):
            raise ValueError("numbers that are neither all float32 nor all float64")
        with torch.device("meta"):
            flow = build(config)
        flow.load_state_dict(tensors, assign=True)
        # As `build` lays them out.
        flow.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own
    except (RuntimeError, ValueError) as error:
        raise DamagedError(f"{path}: does not fit {CONFIG}: {last_line(error)}") from None
    return flow.eval()


def write_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file with these tensors."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(stored)


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; DamagedError names the path if it is none."""
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{path}: {error}") from None
