"""Run one command and say what its end means.

Exit codes: 0; 1 a check failed or a run is damaged; 2 bad input; 130, 143 after a signal.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import or_
from typing import Annotated, Any, NoReturn

import tyro

from realnvp import __version__
from realnvp.cli.compress import Compress, Decompress
from realnvp.cli.evaluate import Check, Evaluate, Info, Presets
from realnvp.cli.figures import Figures, Report, Table
from realnvp.cli.options import note, parse
from realnvp.cli.package import Export, Share
from realnvp.cli.prepare import Prepare
from realnvp.cli.sample import Sample
from realnvp.cli.score import Score
from realnvp.cli.train import all_presets, train
from realnvp.config import nearest
from realnvp.config.errors import ParameterError, Reasons, install_line

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


COMMANDS: dict[str, Any] = {
    "prepare": Prepare,
    "train": train,
    "evaluate": Evaluate,
    "sample": Sample,
    "score": Score,
    "compress": Compress,
    "decompress": Decompress,
    "check": Check,
    "figures": Figures,
    "report": Report,
    "table": Table,
    "info": Info,
    "share": Share,
    "export": Export,
    "presets": Presets,
}

USAGE = f"""usage: realnvp COMMAND ...        realnvp COMMAND --help        realnvp --version

Exact probability models of images and tables with Real NVP (Dinh, Sohl-Dickstein, Bengio, 2016).

  presets    what can be trained: names, image sizes, parameters, the paper's bits/dim
  prepare    a data set's files, as published, to arrays that training reads
  train      train a flow, or go on with a training
  evaluate   bits/dim (of a table: nats) on a split, with its standard error
  sample     draw images or rows
  score      log-density of each of your image files or rows, the least likely ranked first
  compress   pictures without loss, in a file as small as bits/dim says
  decompress that file's pictures, to the last bit
  check      is it invertible, is its log-det right, are all values finite?
  figures    the paper's figures from one run: manifold, extrapolation, compression, latents, ...
  report     one HTML page of a run: results, figures with what to look for, configuration
  table      the paper's Table 1 with your runs beside it
  info       what a run directory holds
  share      a folder to share from a run: weights, configuration, model card
  export     log_prob, encode or decode as an ONNX file
  completion shell completion: realnvp completion bash|zsh

Start:   realnvp train digits --run-dir runs/digits
         realnvp evaluate runs/digits
         realnvp sample runs/digits --out samples.png

Version {__version__}. Exit codes: 0; 1 a check failed or a run is damaged; 2 bad input; \
130, 143 stopped by Ctrl-C, SIGTERM.
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


class Terminated(KeyboardInterrupt):
    """SIGTERM has come: end as after Ctrl-C."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Context: SIGTERM is an exception, so that nothing half written is left.

    A second one ends the process at once. A training has its own way (`stop_signals`).
    """
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return

    def end(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(argv: list[str]) -> int:
    """One command's exit code. Bad input is one line on stderr."""
    warnings.showwarning = lambda message, *_args, **_kwargs: note(f"realnvp: warning: {message}")
    try:
        try:
            with _ended_by_sigterm():
                return _dispatch(argv)
        finally:
            _flush()
    except Terminated:
        return _complain("terminated", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _complain("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        return 1
    except Reasons as error:
        return max(_complain(" ".join(line.split()), 2) for line in error.lines)
    except (ValueError, OSError) as error:
        return _complain(_one_line(error), 2)
    except MemoryError:
        return _complain("not enough memory for that", 2)
    except ModuleNotFoundError as error:
        return _complain(f"{error.name} is not installed: {_install_line(error.name or '')}", 2)
    except Exception as error:
        if which := _lacking_memory(error):
            return _complain(f"not enough {which} for that", 2)
        if not hasattr(error, "exit_code"):  # a defect
            raise
        return _complain(str(error), error.exit_code)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if argv[0] == "--version":
        print(f"realnvp {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name == "completion":
        print(completion(rest, COMMANDS), end="")
        return 0
    if name not in COMMANDS:
        raise ValueError(f"no command {name!r}{nearest(name, COMMANDS)}; see realnvp --help")
    if name == "train":
        return train(rest)
    return int(parse(COMMANDS[name], rest, prog=f"realnvp {name}")())


def _flush() -> None:
    """Write what was printed, while an error can be told. OSError names stdout."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # What could not be written would be an error once more as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "stdout") from None


def _lacking_memory(error: Exception) -> str:
    """Which memory is not enough, or ''; only where torch was imported can it have said so."""
    if "torch" not in sys.modules:
        return ""
    from realnvp.device import lacking_memory

    return lacking_memory(error)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename2 or error.filename}: {error.strerror} (errno {error.errno})"
    if isinstance(error, ParameterError):
        return (
            f"{'-' if len(error.name) == 1 else '--'}{error.name.replace('_', '-')}: "
            f"{' '.join(error.words.split())}"
        )
    return " ".join(str(error).split())


def _install_line(module: str) -> str:
    extras = {
        "accelerate": "train",
        "tensorboard": "train",
        "matplotlib": "figures",
        "lmdb": "lsun",
        "pyarrow": "table",
        "huggingface_hub": "hub",
        "onnx": "onnx",
        "onnxscript": "onnx",
        "PIL": "data",
        "skimage": "data",
        "sklearn": "data",
    }
    return install_line(extras.get(module, "all"))


def _complain(words: str, code: int) -> int:
    note(f"realnvp: error: {words}" if code in (1, 2) else f"realnvp: {words}")
    return code
