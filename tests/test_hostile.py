"""Nothing that people share can run code, leave its folder or take the memory.

Hostile archives are in test_prepare.py.
"""

import ast
import io
import os
import pickle
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from told import Out, refused

import realnvp
from realnvp.config import PRESETS, Config
from realnvp.evaluation.record import OfImages, OverViews
from realnvp.evaluation.report import report
from realnvp.io.run_dir import Session

SOURCE = Path(realnvp.__file__).parent

# What the source says

MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "code", "runpy"}
BUILTINS = {"eval", "exec", "compile", "globals", "__import__"}
METHODS = {"extract", "extractall", "unpack_archive", "system", "popen"}
LOADERS = {
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "np.fromfile",
    "np.memmap",
    "np.genfromtxt",
}
# Modules by name: a closed dictionary, and a constant.
BY_NAME = {"import_module": ["__init__.py", "data/photos.py"], "find_spec": ["data/photos.py"]}
# Processes: git, with constant arguments. Libraries: libc, for its allocator.
PROCESSES = {"subprocess": ["files/environment.py"], "ctypes": ["tools/device.py"]}


def test_no_path_from_a_file_to_code() -> None:
    """No pickle, no eval, no import by name, no extraction; np.load says allow_pickle=False
    wherever it stands.
    """
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                )
                for module in (each.split(".")[0] for each in names):
                    if module in MODULES or name not in PROCESSES.get(module, [name]):
                        wrong.append(f"{name} imports {module}")
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            last = called.split(".")[-1]
            if (
                called in BUILTINS | LOADERS
                or last in METHODS
                or name not in BY_NAME.get(last, [name])
            ):
                wrong.append(f"{name} calls {called}")
            if called == "np.load" and "allow_pickle=False" not in ast.unparse(node):
                wrong.append(f"{name} calls np.load without allow_pickle=False")
            if "allow_pickle=True" in ast.unparse(node) or "weights_only=False" in ast.unparse(
                node
            ):
                wrong.append(f"{name}: {ast.unparse(node)}")
    assert wrong == []


# A trap in every kind of file: unpickling it would make a folder


class Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.marker,)


def bytes_of(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def shared(folder: Path, content: bytes) -> Path:
    """A model as somebody may publish it."""
    (folder / "shared").mkdir()
    (folder / "shared" / "model.safetensors").write_bytes(content)
    return folder / "shared"


def source_of(folder: Path, name: str, content: bytes) -> list[str | Path]:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / name).write_bytes(content)
    return [
        "train",
        "images",
        "--data.source",
        folder / "in",
        "--run-dir",
        folder / "x",
        "--device",
        "cpu",
    ]


def prepared(folder: Path, run_dir: Path, trap: Trap) -> list[str | Path]:
    shutil.copytree(run_dir / "data", folder / "in")
    np.save(folder / "in" / "test.npy", np.array([trap], dtype=object), allow_pickle=True)
    return ["train", "digits", "--data.source", folder / "in", "--run-dir", folder / "x"]


def sampling(folder: Path) -> list[str | Path]:
    return ["sample", folder, "--out", folder.parent / "s.npy"]


# Of an empty folder, a run and a trap: a command that reads the trap, its exit code, and the file
# it must name.
TRAPS: dict[str, tuple[Callable[[Path, Path, Trap], list[str | Path]], int, str]] = {
    "model": (
        lambda t, r, trap: sampling(shared(t, pickle.dumps(trap))),
        1,
        "model.safetensors",
    ),
    "model of torch.save": (
        lambda t, r, trap: sampling(shared(t, bytes_of(lambda f: torch.save(trap, f)))),
        1,
        "model.safetensors",
    ),
    "array": (
        lambda t, r, trap: source_of(
            t, "train.npy", bytes_of(lambda f: np.save(f, np.array([trap], dtype=object)))
        ),
        2,
        "train.npy",
    ),
    "pickle called .npy": (
        lambda t, r, trap: source_of(t, "train.npy", pickle.dumps(trap)),
        2,
        "train.npy",
    ),
    "prepared data": (prepared, 2, "test.npy"),
    "picture": (lambda t, r, trap: source_of(t, "x.png", pickle.dumps(trap)), 2, "x.png"),
}


@pytest.mark.parametrize("kind", TRAPS)
def test_no_file_runs_code(capsys: Out, run_dir: Path, tmp_path: Path, kind: str) -> None:
    make, code, word = TRAPS[kind]
    marker = tmp_path / "marker"
    argv = make(tmp_path, run_dir, Trap(marker))
    assert word in refused(capsys, *argv, unchanged=[tmp_path], code=code)
    assert not marker.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


# Pages

EVIL = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def test_a_page_escapes_all_text(tmp_path: Path) -> None:
    config = PRESETS["images"]
    config = Config("images", data=type(config.data)(set="images", source=EVIL), train=config.train)
    texts: dict[str, Any] = dict.fromkeys(
        ("dataset", "dataset_version", "split", "which", "standard_error_over"), EVIL
    )
    numbers: dict[str, Any] = {
        "bits_per_dim": 1.0,
        "num_images": 3,
        "noise_draws": 1,
        "seed": 0,
        "paper": None,
        "step": 1,
    }
    views: Any = OverViews(EVIL, 1.0, 0.1)  # type: ignore[arg-type]
    words: dict[str, Any] = dict.fromkeys(
        ("time", "git_commit", "platform", "processor", "cpus", "threads"), EVIL
    )
    folder = tmp_path / EVIL.replace("/", "")
    folder.mkdir()
    Image.new("L", (2, 2)).save(folder / f"samples{EVIL.replace('/', '')}.png")
    page = report(
        folder,
        config,
        OfImages(**texts, **numbers, standard_error=0.1, views=views, codecs={EVIL: 1.0}),
        folder.glob("*.png"),
        [Session(**words, command=[EVIL], versions={EVIL: EVIL}, gpus=[], cuda=None)],
        seed=0,
    ).read_text()
    assert page.count("&lt;script&gt;") > 15
    tags = "body code figure h1 h2 head html img meta p style table td th title tr"
    assert " ".join(sorted(set(re.findall(r"<(\w+)", page)))) == tags
    assert not re.search(r"<[^>]*\bonerror=", re.sub(r'"[^"]*"', '""', page))


# Dependencies


def test_the_lock_holds_versions_only() -> None:
    """No address, no path, no version of one platform; every dependency is in it, but for those of
    the documentation.
    """
    root = Path(__file__).parent.parent
    lines = (root / "requirements-dev.lock").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==\d[\w.]*", line)] == []
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [
        each for name in extras.keys() - {"docs"} for each in extras[name]
    ]
    names = {re.match(r"[\w-]+", each).group().lower().replace("_", "-") for each in wanted}  # type: ignore[union-attr]  # all match
    assert names - {"realnvp"} <= {line.split("==")[0].lower().replace("_", "-") for line in lines}


def test_the_release_has_the_least_rights_and_no_password() -> None:
    text = (Path(__file__).parent.parent / ".github/workflows/release.yml").read_text()
    assert re.search(r"^permissions: {}\n\n", text, re.M)
    assert re.findall(r"^      ([\w-]+): (read|write)\b", text, re.M) == [
        ("contents", "read"),
        ("id-token", "write"),
    ]
    assert re.search(r'^on:\n  push:\n    tags: \["v\*"\]\n\n', text, re.M)
    assert "secrets." not in text
    assert "password" not in text.replace("without a password", "")
    actions = re.findall(r"uses: (.*)", text)
    assert all(
        re.fullmatch(r"actions/[\w-]+@v\d+|pypa/gh-action-pypi-publish@release/v1", action)
        for action in actions
    )
    assert text.count("timeout-minutes:") == text.count("runs-on:")


@pytest.mark.parametrize(
    ("code", "said", "word"),
    [
        (0, "No known vulnerabilities found", ""),
        (1, "Found 2 known vulnerabilities in 1 package", "VULNERABLE"),
        (
            1,
            "ERROR:pip_audit._cli:absl-py: Dependency not found on PyPI and could not be audited",
            "NOT AUDITED",
        ),
    ],
)
@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
def test_what_could_not_be_looked_up_is_not_audited(
    tmp_path: Path, code: int, said: str, word: str
) -> None:
    """With words that pip-audit 2.10 said."""
    stand_in = tmp_path / "audit" / "bin" / "pip-audit"
    stand_in.parent.mkdir(parents=True)
    (tmp_path / ".audit").touch()
    stand_in.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit {code}\n")
    stand_in.chmod(0o755)
    command = ["make", "--silent", "audit", f"VENV={tmp_path}"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=600
    )
    assert (done.returncode != 0) == (code != 0)
    assert done.stdout.splitlines()[0] == said
    assert [line.split(": ")[1] for line in done.stdout.splitlines()[1:]] == [word] * bool(word)


def test_the_workflow_has_the_least_rights() -> None:
    text = (Path(__file__).parent.parent / ".github/workflows/ci.yml").read_text()
    assert re.search(r"^permissions:\n  contents: read\n\n", text, re.M)
    assert text.count("permissions:") == 1
    assert "secrets." not in text
    assert "pull_request_target" not in text
    assert all(
        re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in re.findall(r"uses: (.*)", text)
    )
    assert text.count("timeout-minutes:") == text.count("runs-on:")
