"""Shell completion, made by tyro from the commands themselves."""

import contextlib
import io
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro

from realnvp.cli.train import all_presets

SHELLS = ("bash", "zsh")
# What tyro says where a path is wanted. Of a place without a flag, a run or data, it says nothing.
FILES = '"$completions" == "__TYRO_COMPLETE_FILES__"'


def completion(argv: list[str], commands: dict[str, Any]) -> str:
    """The completion script for the shell that argv names."""
    if len(argv) != 1 or argv[0] not in SHELLS:
        raise ValueError(
            f"completion: name one shell: {', '.join(SHELLS)}, for example: realnvp completion bash"
        )
    every: Any = reduce(
        or_,
        (
            Annotated[command, tyro.conf.subcommand(name)]
            for name, command in (commands | {"train": all_presets()}).items()
        ),
    )
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        tyro.cli(every, prog="realnvp", args=["--tyro-print-completion", argv[0]])
    # Where there is nothing else, bash then completes names of files; folders end with a slash.
    text = script.getvalue().replace("complete -F", "complete -o default -o filenames -F")
    return text.replace(FILES, f'-z "$completions" || {FILES}')
