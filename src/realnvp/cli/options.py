"""Flags that several commands share, and the first and last steps of commands."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic_core import to_json

from realnvp.config.fields import TableData

if TYPE_CHECKING:
    import torch

    from realnvp.data.dataset import Dataset
    from realnvp.flows.flow import Flow

arg = tyro.conf.arg
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Device = Annotated[str, arg(help="cpu, cuda, cuda:1 ..., or auto: cuda if there is a GPU.")]
Threads = Annotated[
    int | None,
    arg(help="CPU threads; default: torch's own choice. On busy cores fewer are faster."),
]
Which = Annotated[
    Literal["best", "last"], arg(help="The model with the best validation result, or the last one.")
]
Fast = Annotated[Flag, arg(help="Several times as fast, in low precision.")]
RunDir = Annotated[
    str,
    tyro.conf.Positional,
    arg(metavar="RUN", help="A run, a saved or pretrained flow such as photos-32, or a Hub id."),
]
ClassName = Annotated[str | None, arg(name="class", metavar="NAME")]


@dataclass(kw_only=True)
class Command:
    """A command whose result is one JSON object, or a text."""

    json: Flag = False
    """Print one JSON object."""

    def show(self, values: Mapping[str, Any], text: str) -> None:
        """Print the result."""
        print_json(values) if self.json else print(text)


@dataclass(kw_only=True)
class FlowCommand(Command):
    """A command on a trained flow."""

    run: RunDir
    which: Which = "best"
    device: Device = "auto"
    threads: Threads = None

    def load(self, *, fast: bool = False) -> "tuple[Flow, dict[str, Any]]":
        """The flow on the device, and the facts saved with it."""
        import realnvp
        from realnvp.io.pretrained import load_model

        device = setup_device(self.device, self.threads)
        flow, facts = load_model(self.run, self.which)
        flow = flow.to(device)
        return realnvp.fast(flow) if fast else flow, facts


def beside(run: str) -> Path:
    """The folder for files made from a flow: its run directory, else the current folder."""
    return Path(run) if Path(run).is_dir() else Path()


def prepare_output(flag: str, out: Path, *, read: Iterable[Path] = ()) -> None:
    """Make the folder of a file to write. ValueError: the file is a folder, or is read."""
    if out.is_dir():
        raise ValueError(f"{flag}: {out} is a folder; name a file")
    if out.resolve() in {path.resolve() for path in read}:
        raise ValueError(f"{flag}: {out} is an input of this command")
    out.parent.mkdir(parents=True, exist_ok=True)


def setup_device(device: str, threads: int | None) -> "torch.device":
    """Choose the device and the number of CPU threads."""
    import torch

    from realnvp.device import keep_freed_memory, pick_device

    if threads is not None:
        if threads < 1:
            raise ValueError(f"--threads: must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    keep_freed_memory()
    return pick_device(device)


def of_table(flow: "Flow") -> bool:
    """Whether a flow models the rows of a table."""
    return flow.config is not None and isinstance(flow.config.data, TableData)


def given_class(flow: "Flow", name: str | None) -> str | None:
    """The name of a class of the flow. ValueError: the flow has no such class."""
    names = getattr(flow.condition, "names", [])
    if name is not None and name not in names:
        raise ValueError(f"--class: {name!r} is not one of the flow's {len(names)} classes")
    return name


def own_data(flow: "Flow", run: str) -> "Dataset":
    """The run's own data. ValueError: they have changed since the training."""
    from realnvp.data.prepared import splits_of_run
    from realnvp.flows.flow import config_of
    from realnvp.io.run_dir import RunDir

    splits = splits_of_run(Path(run), config_of(flow), verify=["test"])
    RunDir(run).check_data(splits.folder, splits.sha256)
    return splits


def note(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr)


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object; JSON has no NaN nor infinity, so these become null."""
    print(to_json(values, indent=2, inf_nan_mode="null").decode())
