"""Flows that people load: by a path, a shipped flow's name or an id on the Hub. No pickle."""

import json
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from realnvp.bijections import Chain
from realnvp.config import Config, from_json, least_parameters, nearest, to_json
from realnvp.config.errors import last_line, one_line
from realnvp.flows.build import build
from realnvp.flows.flow import Flow, refuse_fast
from realnvp.io.card import card, card_of_built
from realnvp.io.checkpoint import newest_weights
from realnvp.io.files import (
    CARD,
    MANIFEST,
    DamagedError,
    damaged_if_invalid,
    fields_of,
    newest_intact,
    parse_record,
    read_folder,
    read_tensors,
    write_folder,
    write_tensors,
)

WEIGHTS, CONFIG, FACTS = "model.safetensors", "config.json", "facts.json"
PARTS = "parts.json"  # in place of a configuration, where there is none
FILES = (WEIGHTS, CONFIG, PARTS, FACTS, MANIFEST)  # all that is read of a flow
BESIDE = ("detector.json", "detector.safetensors")  # what may be saved with it
SHIPPED = Path(__file__).parents[1] / "pretrained"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def pretrained() -> list[str]:
    """Names of the trained flows inside the package."""
    return sorted(path.name for path in SHIPPED.iterdir())


def locate(where: str | Path) -> Path:
    """The folder of a flow: a path that exists, a shipped flow, or a download from the Hub.

    where: a path; a name as photos-32; user/name or user/name@revision. It is looked for in
    this order, and on the Hub only where there is no folder `user`.
    ValueError says what was tried.
    """
    folder, name = Path(where), str(where)
    if folder.exists():
        return folder
    if name in pretrained():
        return SHIPPED / name
    tried = (
        f"{name}: no such run directory or saved flow, and no shipped flow"
        f"{nearest(name, pretrained())}: {', '.join(pretrained())}"
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
            f"{tried}; if it is on the Hugging Face Hub, in a clone pip install -e '.[hub]', "
            "else pip install 'realnvp[hub]'"
        ) from None
    try:
        folder = Path(
            snapshot_download(repo_id, revision=revision or None, allow_patterns=[*FILES, *BESIDE])
        )
    except Exception as error:  # also of kinds that the Hub's client, and its version, have
        raise ValueError(
            f"{tried}; nor does the Hugging Face Hub give it: {one_line(error)[:300]}"
        ) from None
    if missing := _lacking([file for file in FILES if (folder / file).exists()], MANIFEST):
        raise ValueError(
            f"{name}: no flow of realnvp: "
            f"this repository of the Hugging Face Hub lacks {', '.join(missing)}"
        )
    return folder


def _lacking(files: Collection[str], *more: str) -> list[str]:
    """The files without which there is no flow, where they are missing."""
    needed = (WEIGHTS, FACTS, PARTS if PARTS in files else CONFIG, *more)
    return [file for file in needed if file not in files]


class Companion(Protocol):
    """What is saved beside a flow, as a `realnvp.anomaly.Detector`."""

    def files(self) -> dict[str, bytes]:
        """{file name: content}."""


def save_flow(
    flow: Flow,
    folder: str | Path,
    *,
    facts: Mapping[str, Any] | None = None,
    detector: Companion | None = None,
) -> None:
    """Write a folder that `load_flow` reads: weights, configuration, facts, manifest, README.md.

    facts: any JSON. README.md, a model card, shows
        evaluation: what RUN/evaluation.json holds,
        commands: a list of texts,
        licence: an identifier as the Hugging Face Hub has them, such as mit,
        sources: where the training data come from,
        environment and step.
    detector: a `realnvp.anomaly.Detector` fitted with the flow, which `Detector.load` reads.
    A flow of your own parts has no configuration: its weights are kept, and the names of its
    classes, and `load_flow` needs such a flow, built again.
    An earlier such folder is replaced, its card too. ValueError: something else is in its place.
    """
    folder, facts = Path(folder), dict(facts or {})
    files, name = _files_of(flow, facts), folder.resolve().name
    parameters = sum(parameter.numel() for parameter in flow.parameters())
    text = (
        card(name, flow.config, facts, parameters=parameters)
        if flow.config
        else card_of_built(name, parts_of(flow), parameters=parameters)
    )
    beside = detector.files() if detector else {}
    write_folder(folder, files | beside | {CARD: text.encode()})


def save_model(flow: Flow, folder: Path, *, facts: Mapping[str, Any]) -> None:
    """Write a model of a run: a saved flow without a card."""
    write_folder(folder, _files_of(flow, facts))


def _files_of(flow: Flow, facts: Mapping[str, Any]) -> dict[str, bytes]:
    refuse_fast(flow, "save")
    if flow.config and flow.config.model.context_dim and flow.condition is None:
        raise ValueError("this flow is made by flow.given: save the flow that it was made from")
    tensors, text = flow.state_dict(), json.dumps(dict(facts), indent=2)
    if flow.config:
        described = {CONFIG: to_json(flow.config).encode()}
    else:
        parts = Parts(parts_of(flow), None if flow.shape is None else [*flow.shape])
        described = {PARTS: json.dumps(fields_of(parts), indent=2).encode()}
        # safetensors refuses a network that several couplings share.
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return {WEIGHTS: write_tensors(tensors), FACTS: text.encode()} | described


@dataclass(frozen=True)
class Parts:
    """What is known of a flow without a configuration."""

    classes: str
    shape: list[int] | None
    """Of one x."""


def parts_of(flow: Flow) -> str:
    """The classes of a flow that was built by hand: 'Chain of MyCoupling, ActNorm; MyPrior'."""
    bijection, prior = type(flow.bijection).__name__, type(flow.prior).__name__
    layers = flow.bijection.bijections if isinstance(flow.bijection, Chain) else ()
    kinds = dict.fromkeys(type(layer).__name__ for layer in layers)
    return f"{bijection}{' of ' * bool(kinds)}{', '.join(kinds)}; {prior}"


def load_flow(
    where: str | Path, which: Literal["best", "last"] = "best", *, flow: Flow | None = None
) -> Flow:
    """Load a flow; it is in eval mode, on the CPU.

    where: a run directory or a folder that `save_flow` wrote; the name of a flow inside this
        package, such as photos-32; an id on the Hugging Face Hub, user/name or
        user/name@revision. In this order.
    which: of a run, best has the lowest validation bits/dim, last is of the last evaluation or
        stop. Both have batch norm's moments re-estimated. Before the first evaluation best is the
        model of the last stop, else the newest checkpoint's weights, with a warning.
    flow: built as the saved one was; it gets the weights, where it is, and is returned. A flow of
        your own parts needs this. ValueError names the first weight that does not fit.
    From the Hub only safetensors and JSON are taken. ValueError: there is no such flow.
    DamagedError: a file has changed since it was written.
    """
    return load_model(where, which, flow=flow)[0]


def load_config(where: str | Path) -> Config:
    """The configuration of a flow that `load_flow` would load."""
    return _config_in(*_model_files(where, "best"))


@torch.inference_mode(False)  # or its weights could not be trained
def load_model(
    where: str | Path, which: Literal["best", "last"] = "best", *, flow: Flow | None = None
) -> tuple[Flow, dict[str, Any]]:
    """Load a flow, as `load_flow` does, and its facts: of a run, step and validation bits/dim."""
    files, folder = _model_files(where, which)
    with damaged_if_invalid():
        facts = parse_record(dict[str, Any], files[FACTS], folder / FACTS)
    weights, path = files[WEIGHTS], folder / WEIGHTS
    if flow is None:
        return _flow_from(_config_in(files, folder), weights, path), facts
    _fill(flow, read_tensors(weights, path), path)
    if flow.shape is None and PARTS in files:
        shape = _parts_in(files, folder).shape
        flow.shape = shape and tuple(shape)
    return flow.eval(), facts


def _config_in(files: Mapping[str, bytes], folder: Path) -> Config:
    """The configuration among the files of a saved flow. ValueError: it has none."""
    if PARTS in files:
        raise ValueError(
            f"{folder}: is of a flow without a configuration "
            f"({_parts_in(files, folder).classes}): build it again, and fill it by "
            f"realnvp.load_flow({str(folder)!r}, flow=built)"
        )
    return from_json(files[CONFIG], folder / CONFIG)


def _parts_in(files: Mapping[str, bytes], folder: Path) -> Parts:
    with damaged_if_invalid():
        return parse_record(Parts, files[PARTS], folder / PARTS)


def _fill(flow: Flow, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give the flow these weights. ValueError names the first that does not fit."""
    refuse_fast(flow, "load into")
    there, here = ({n: _size(t) for n, t in it.items()} for it in (tensors, flow.state_dict()))
    for name in {**here, **there}:
        if (context := there.get(name, "missing")) != (own := here.get(name, "missing")):
            raise ValueError(
                f"{path}: does not fit this flow ({parts_of(flow)}): "
                f"{name} is {context} there, {own} here"
            )
    flow.load_state_dict(dict(tensors))


def _size(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _model_files(where: str | Path, which: str) -> tuple[dict[str, bytes], Path]:
    if which not in ("best", "last"):
        raise ValueError(f"which: must be 'best' or 'last', got {which!r}")
    folder = locate(where)
    files = read_folder(folder) if (folder / WEIGHTS).exists() else _files_of_run(folder, which)
    if missing := _lacking(files):
        raise DamagedError(f"{folder}: its manifest lacks {', '.join(sorted(missing))}")
    return files, folder


def _files_of_run(folder: Path, which: str) -> dict[str, bytes]:
    """The files of a run's best or last model.

    Before the first evaluation: of the model of the last stop, else of the newest checkpoint.
    """
    found, complaints = newest_intact(folder / "model", which)
    if found is None and not complaints and which == "best":
        found, complaints = newest_intact(folder / "model", "last")
        if found is not None:
            warnings.warn(
                f"{folder}: nothing has been evaluated on validation yet; "
                "the model of the last stop is used",
                stacklevel=4,
            )
    if found is None and complaints:
        raise DamagedError("; ".join(complaints))
    for complaint in complaints:
        warnings.warn(f"{complaint}; an older model is used", stacklevel=3)
    return _files_of_checkpoint(folder) if found is None else found


def _files_of_checkpoint(folder: Path) -> dict[str, bytes]:
    """A model of a run that was killed, or copied, before its first one."""
    config = folder / CONFIG
    if not config.exists() or (newest := newest_weights(folder)) is None:
        raise ValueError(why_no_flow(folder))
    state, weights = newest
    warnings.warn(
        f"{folder}: this run has no model yet; "
        f"the weights of its checkpoint at step {state.step} are used",
        stacklevel=5,
    )
    return {
        WEIGHTS: write_tensors(weights),
        CONFIG: config.read_bytes(),
        FACTS: json.dumps({"step": state.step}).encode(),
    }


def why_no_flow(folder: Path) -> str:
    """Words for a folder that is no saved flow, nor a run that has a model."""
    if not folder.exists():
        if str(folder) in pretrained():
            return f"{folder}: a flow inside the package; name a run directory"
        return f"{folder}: no such run directory or saved flow"
    if (folder / CONFIG).exists():
        return (
            f"{folder}: this run has no model yet; its training writes one when it is stopped "
            "(Ctrl-C), and at step train.eval_every"
        )
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
