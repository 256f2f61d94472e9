"""Flags that several commands have, and how flags are read."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

import tyro

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Device = Annotated[
    str,
    tyro.conf.arg(
        metavar="DEVICE",
        help="cpu, cuda, cuda:1 ..., mps (untried), or auto: cuda where there is a GPU.",
    ),
]
Threads = Annotated[
    int | None,
    tyro.conf.arg(
        metavar="N",
        help="Of torch on a CPU; when not given, one for each core that no other process is "
        "busy on.",
    ),
]
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print one JSON object.")]
Which = Annotated[
    Literal["best", "last"],
    tyro.conf.arg(help="The best model by validation bits/dim, or that of the last evaluation."),
]
Fast = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(
        help="Several times as fast, in low precision; how far it is off is measured and printed."
    ),
]
RunDir = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="RUN",
        help="A run directory, a saved flow's folder, photos-small, digits-small, or its id on "
        "the Hub.",
    ),
]
Command = TypeVar("Command", bound=Callable[[], int])


def parse(
    command: type[Command], argv: Sequence[str], *, prog: str, default: Command | None = None
) -> Command:
    """The command with the values of its flags; ValueError, in one line, names a wrong flag."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(command, args=argv, prog=prog, default=default)
    except SystemExit as stopped:
        if not stopped.code:  # --help
            raise
        raise ValueError(
            " ".join(
                line.strip(" │")
                for line in said.getvalue().splitlines()[1:]  # under a title
                if re.search(r"\w", line)  # no rule
            )
        ) from None
    assert parsed is not None
    return parsed
