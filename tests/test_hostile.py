"""No file that people share can run code."""

import ast
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import realnvp
from realnvp.cli.main import run

SOURCE = Path(realnvp.__file__).parent
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.hub.load", "np.fromfile"}
METHODS = {"extract", "extractall", "unpack_archive", "system", "popen"}


def test_no_path_from_a_file_to_code() -> None:
    """No pickle, no eval, no extraction; np.load has allow_pickle=False."""
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [(path.name, name) for name in modules if name.split(".")[0] in MODULES]
            if isinstance(node, ast.Call):
                called, text = ast.unparse(node.func), ast.unparse(node)
                unsafe = called == "np.load" and "allow_pickle=False" not in text
                if unsafe or called in CALLS or called.split(".")[-1] in METHODS:
                    wrong.append((path.name, text))
    assert wrong == []


class Trap:
    """Unpickling makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.marker,)


def objects(path: Path, trap: Trap) -> None:
    np.save(path, np.array([trap], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.safetensors", lambda path, trap: path.write_bytes(pickle.dumps(trap))),
        ("model.safetensors", lambda path, trap: torch.save(trap, path)),
        ("in/train.npy", objects),
        ("in/train.npy", lambda path, trap: path.write_bytes(pickle.dumps(trap))),
        ("in/x.png", lambda path, trap: path.write_bytes(pickle.dumps(trap))),
        ("prepared/test.npy", objects),
    ],
)
def test_no_file_runs_code(
    capsys: pytest.CaptureFixture[str],
    run_dir: Path,
    tmp_path: Path,
    name: str,
    write: Callable[[Path, Trap], object],
) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "in").mkdir()
    shutil.copytree(run_dir / "data", tmp_path / "prepared")
    write(tmp_path / name, Trap(marker))
    if name.startswith("model"):
        argv = ["sample", str(tmp_path / name), "--out", str(tmp_path / "s.npy")]
    else:
        preset = "digits" if name.startswith("prepared") else "images"
        source = str((tmp_path / name).parent)
        argv = ["train", preset, "--data.source", source, "--run-dir", str(tmp_path / "x")]
    assert run(argv) in (1, 2)
    assert Path(name).name in capsys.readouterr().err
    assert not marker.exists()
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists()  # the trap works
