"""The layers of the package, what help must not wait for; no file that people share runs code."""

import ast
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import realnvp
from realnvp.cli.main import run

SOURCE = Path(realnvp.__file__).parent
# A module imports only its own subpackage and those of the lines above (docs/design.md).
LAYERS = [
    "config",
    "random moments progress device",
    "bijections nets",
    "flows",
    "io",
    "data",
    "evaluation figures",
    "anomaly codec",
    "training",
    "sklearn hub export",
    "cli",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}


def imports(path: Path) -> set[str]:
    """All imports of a file, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_a_module_imports_only_the_layers_below_it() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        here = path.relative_to(SOURCE).with_suffix("").parts[0]
        if here.startswith("__"):
            continue
        used = {name.split(".")[1] for name in imports(path) if name.startswith("realnvp.")}
        for other in (used & LEVEL.keys()) - {here}:
            if LEVEL[other] > LEVEL[here]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert wrong == []


def test_nets_and_bijections_never_import_each_other() -> None:
    for one, other in (("nets", "bijections"), ("bijections", "nets")):
        for path in (SOURCE / one).rglob("*.py"):
            assert not any(name.startswith(f"realnvp.{other}") for name in imports(path)), path


def test_help_and_configuration_never_import_torch() -> None:
    code = """
import sys
from realnvp.cli.main import COMMANDS, run
for command in ["", *COMMANDS, "train photos"]:
    assert run([*command.split(), "--help"]) == 0
assert run(["train", "photos", "--train.unknown"]) == 2
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()


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
