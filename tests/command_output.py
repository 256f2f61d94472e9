"""Output of commands: a JSON object, or the one line of a refusal."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from realnvp.cli.main import run

Out = pytest.CaptureFixture[str]


def answer(out: Out, *argv: str | Path, code: int = 0) -> dict[str, object]:
    """The JSON object that a command prints with --json, and nothing else on stdout."""
    assert run([*map(str, argv), "--json"]) == code
    result: dict[str, object] = json.loads(out.readouterr().out)
    return result


def refused(out: Out, *argv: str | Path, unchanged: Iterable[Path] = (), code: int = 2) -> str:
    """The one line of a command that refuses its input.

    Nothing changes in the folders of `unchanged`.
    """
    before = listing(*unchanged)
    assert run([*map(str, argv)]) == code
    captured = out.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"realnvp: error: [^\n]+\n", captured.err), captured.err
    assert listing(*unchanged) == before
    return captured.err.removesuffix("\n")


def in_two_processes(*script: str | Path) -> None:
    """Run a Python script by torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "--standalone", "--local-addr", "127.0.0.1", *script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr


def listing(*folders: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below the folders; of folders among it that they are there."""

    def about(path: Path) -> tuple[int, int]:
        folder = path.is_dir() and not path.is_symlink()
        return (0, 0) if folder else (path.lstat().st_size, path.lstat().st_mtime_ns)

    return {str(path): about(path) for folder in folders for path in folder.rglob("*")}
