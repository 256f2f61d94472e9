"""The command realnvp: tyro parses the command line; errors of a command become exit codes.

Exit codes: 0; 1 a check failed or a file is damaged; 2 bad input; 130, 143 after SIGINT, SIGTERM.
"""

import inspect
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any, NoReturn

import tyro
from pydantic import ValidationError

from realnvp import __version__
from realnvp.cli.compress import Compress, Decompress
from realnvp.cli.evaluate import Check, Evaluate, Presets
from realnvp.cli.options import note
from realnvp.cli.results import Export, Figures, Package, Report, Sample, Table
from realnvp.cli.score import Score
from realnvp.cli.train import Prepare, Train, all_presets, train
from realnvp.progress import show_progress

COMMANDS: dict[str, Any] = {
    command.__name__.lower(): command
    for command in (
        *(Presets, Prepare, Train, Evaluate, Sample, Score, Compress, Decompress),
        *(Check, Figures, Report, Table, Package, Export),
    )
}
DESCRIPTION = f"""Exact probability models of images and tables with Real NVP (Dinh et al., 2016).

Example: realnvp train digits --run-dir runs/digits

Version {__version__}. Shell completion: realnvp --tyro-print-completion bash|zsh|tcsh
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    # An exception, so that no file is left half written; a training handles the signal itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit code; bad input is one line on stderr."""
    warnings.showwarning = lambda message, *_args, **_kwargs: note(f"realnvp: warning: {message}")
    try:
        with show_progress():
            code = _dispatch(list(argv))
        sys.stdout.flush()
    except SystemExit as ended:  # of tyro: 0 after --help, 2 for a wrong flag
        return int(ended.code or 0)
    except KeyboardInterrupt:
        note("realnvp: interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of stdout has ended, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        note(f"realnvp: error: {' '.join(message.split())}")
        return getattr(error, "exit_code", 2)
    return code


def _dispatch(argv: list[str]) -> int:
    if argv == ["--version"]:
        print(f"realnvp {__version__}")
        return 0
    if argv[:1] == ["train"]:
        return train(argv[1:])
    if argv and argv[0] in COMMANDS:
        return tyro.cli(COMMANDS[argv[0]], prog=f"realnvp {argv[0]}", args=argv[1:])()
    commands = []  # for the list of commands and for shell completion
    for name, command in COMMANDS.items():
        kind = all_presets() if command is Train else command
        summary = inspect.cleandoc(command.__doc__).partition("\n\n")[0]
        commands.append(Annotated[kind, tyro.conf.subcommand(name, description=summary)])
    everything: Any = reduce(or_, commands)
    return tyro.cli(everything, prog="realnvp", description=DESCRIPTION, args=argv)()


def _message(error: Exception) -> str | None:
    """The message of an error that the user can mend; None: the error is a bug."""
    if isinstance(error, ValidationError):
        details = error.errors()
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in details)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename2 or error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'realnvp[all]'"
    torch = sys.modules.get("torch")
    out_of_memory = (MemoryError, torch.OutOfMemoryError) if torch else MemoryError
    if isinstance(error, out_of_memory):
        return f"not enough memory: {error}"
    expected = isinstance(error, ValueError | OSError) or hasattr(error, "exit_code")
    return str(error) if expected else None
