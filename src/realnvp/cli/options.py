"""What several commands share: their flags, and the flow that they are given."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

if TYPE_CHECKING:
    from realnvp.flow import Flow

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Device = Annotated[str, tyro.conf.arg(metavar="DEVICE", help="auto, cpu, cuda or mps.")]
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print one JSON object.")]
Which = Annotated[
    Literal["best", "last"], tyro.conf.arg(help="The best model by validation bits/dim, or that of the last evaluation.")
]
Fast = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Several times as fast, in low precision; how far it is off is measured and printed."),
]
RunDir = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="RUN", help="A run directory, a saved flow's folder, photos-small, digits-small, or its id on the Hub."
    ),
]
Command = TypeVar("Command", bound=Callable[[], int])


def parse(command: type[Command], argv: Sequence[str], *, prog: str, default: Command | None = None) -> Command:
    """The command with the values of its flags; ValueError, in one line, names a wrong flag."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: Command = tyro.cli(command, args=argv, prog=prog, default=default)  # type: ignore[assignment]  # never None
    except SystemExit as stopped:
        if not stopped.code:  # --help
            raise
        lines = [line for line in said.getvalue().splitlines()[1:] if re.search(r"\w", line)]  # a title, and rules
        raise ValueError(" ".join(line.strip(" │") for line in lines)) from None
    return parsed


def beside(run: str) -> Path:
    """Where what is made from a flow goes: its folder, or this one for a shipped flow or one from the Hub."""
    return Path(run) if Path(run).exists() else Path()


def make_way(flag: str, out: Path | None) -> None:
    """Make the folder of a file to be written; ValueError or OSError before anything is computed, if that cannot be."""
    if out and out.is_dir():
        raise ValueError(f"{flag}: {out} is a folder; name a file")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)


def load(run: str, device: str, *, which: Literal["best", "last"]) -> "tuple[Flow, dict[str, Any]]":
    """The run's flow on the device, and what is known of it."""
    from realnvp.checkpoint import load_model
    from realnvp.device import keep_freed_memory, pick_device

    place = pick_device(device)
    keep_freed_memory()
    flow, facts = load_model(run, which)
    return flow.to(place), facts


def of_table(flow: "Flow") -> bool:
    """Whether it is a flow of rows, not of images."""
    assert flow.config is not None
    return flow.config.data.levels is None


def test_split(flow: "Flow", run: str) -> Any:
    """The images or rows of the run's own test split, after a look at their checksum."""
    from realnvp.data import splits_of_run

    assert flow.config is not None
    return splits_of_run(Path(run), flow.config, verify=["test"]).test
