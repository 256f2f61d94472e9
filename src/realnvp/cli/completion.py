"""Shell completion, made by tyro from the commands themselves."""

import contextlib
import io
from typing import Annotated, Any

import tyro

from realnvp.cli import commands
from realnvp.cli.figures import Figures
from realnvp.cli.train import Presets, all_presets


def completion(argv: list[str]) -> str:
    """The completion script for a shell: bash, zsh or tcsh."""
    shells = ("bash", "zsh", "tcsh")
    if len(argv) != 1 or argv[0] not in shells:
        raise ValueError(f"completion: name one shell: {', '.join(shells)}, for example: realnvp completion bash")
    named = {
        "evaluate": commands.Evaluate,
        "sample": commands.Sample,
        "score": commands.Score,
        "check": commands.Check,
        "figures": Figures,
        "info": commands.Info,
        "presets": Presets,
    }
    every: Any = Annotated[all_presets(), tyro.conf.subcommand("train")]
    for name, command in named.items():
        every |= Annotated[command, tyro.conf.subcommand(name)]
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        tyro.cli(every, prog="realnvp", args=["--tyro-print-completion", argv[0]])
    return script.getvalue()
