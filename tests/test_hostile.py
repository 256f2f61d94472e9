"""Nothing that people share can run code, leave its folder or take the memory.

Hostile archives are in test_prepare.py.
"""

import ast
import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from pictures import png
from PIL import Image
from told import Out, refused

import realnvp
from realnvp.cli.main import run
from realnvp.config import PRESETS, Config
from realnvp.evaluation.record import OfImages, OverViews
from realnvp.evaluation.report import report
from realnvp.io.files import DamagedError, read_folder, write_folder
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


def shared(folder: Path, run_dir: Path, files: dict[str, bytes]) -> Path:
    """A model as somebody may publish it: other files, and a manifest that fits them."""
    whole = read_folder(next((run_dir / "model").glob("best-*"))) | files
    write_folder(folder / "shared", whole)
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


def lmdb_of(folder: Path, *values: bytes) -> list[str | Path]:
    lmdb = pytest.importorskip("lmdb")
    for split in ("train", "val"):
        path = str(folder / "in" / f"tower_{split}_lmdb")
        Path(path).mkdir(parents=True)
        with lmdb.open(path, map_size=2**24) as database, database.begin(write=True) as transaction:
            for number, value in enumerate(values):
                transaction.put(str(number).encode(), value)
    return [
        "prepare",
        "lsun-tower",
        "--allow-partial",
        "--source",
        folder / "in",
        "--out",
        folder / "x",
    ]


def npz_of(folder: Path, trap: Trap) -> list[str | Path]:
    content = bytes_of(lambda file: np.savez(file, data=np.array([trap], dtype=object)))
    for name in ("train_data_batch_1.npz", "val_data.npz"):
        source_of(folder, name, content)
    return [
        "prepare",
        "imagenet32",
        "--allow-partial",
        "--source",
        folder / "in",
        "--out",
        folder / "x",
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
        lambda t, r, trap: sampling(shared(t, r, {"model.safetensors": pickle.dumps(trap)})),
        1,
        "model.safetensors",
    ),
    "model of torch.save": (
        lambda t, r, trap: sampling(
            shared(t, r, {"model.safetensors": bytes_of(lambda f: torch.save(trap, f))})
        ),
        1,
        "model.safetensors",
    ),
    "configuration": (
        lambda t, r, trap: sampling(shared(t, r, {"config.json": pickle.dumps(trap)})),
        2,
        "config.json",
    ),
    "facts": (
        lambda t, r, trap: sampling(shared(t, r, {"facts.json": pickle.dumps(trap)})),
        1,
        "facts.json",
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
    "npz batch": (lambda t, r, trap: npz_of(t, trap), 2, "train_data_batch_1.npz"),
    "prepared data": (prepared, 2, "test.npy"),
    "picture": (lambda t, r, trap: source_of(t, "x.png", pickle.dumps(trap)), 2, "x.png"),
    "CIFAR-10": (
        lambda t, r, trap: [
            *("prepare", "cifar10", "--out", t / "x", "--source"),
            Path(source_of(t, "data_batch_1", pickle.dumps(trap))[3]),
        ],
        2,
        "pickles",
    ),
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


def test_the_values_of_an_lmdb_are_pictures(capsys: Out, tmp_path: Path) -> None:
    """They are decoded while the set is written, so that something half done stays."""
    png(tmp_path / "bomb.png", 20_000, 8)
    bomb, trap = (tmp_path / "bomb.png").read_bytes(), pickle.dumps(Trap(tmp_path / "marker"))
    for value, reason in {bomb: "exceeds limit", trap: "not an image"}.items():
        shutil.rmtree(tmp_path / "in", ignore_errors=True)
        assert run([*map(str, lmdb_of(tmp_path, value))]) == 2
        error = capsys.readouterr().err
        assert "tower_train_lmdb: key 0: " in error
        assert reason in error
    assert not (tmp_path / "marker").exists()


# Shared models


def header(text: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> str:
    return json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


def cast(weights: bytes, dtype: torch.dtype) -> bytes:
    return safetensors.torch.save(
        {name: value.to(dtype) for name, value in safetensors.torch.load(weights).items()}
    )


WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda w: b"",
    "a header of 2^63 bytes": lambda w: header("{}", length=2**63),
    "a header of a gigabyte": lambda w: header("{}", length=2**30),
    "a header that is no JSON": lambda w: header(b"\xff" * 64),
    "a deep header": lambda w: header('{"a":' * 100_000),
    "no tensors": lambda w: safetensors.torch.save({}),
    "a shape that overflows": lambda w: header(tensor([2**62, 8], [0, 4]), bytes(4)),
    "a shape of a terabyte": lambda w: header(tensor([2**38], [0, 2**40]), bytes(4)),
    "offsets that go back": lambda w: header(tensor([1], [4, 0]), bytes(4)),
    "offsets beyond the end": lambda w: header(tensor([1], [100, 104]), bytes(4)),
    "an unknown type": lambda w: header(tensor([1], [0, 4], "PICKLE"), bytes(4)),
    "integers": lambda w: cast(w, torch.int64),
    "half precision": lambda w: cast(w, torch.float16),
    "one tensor too many": lambda w: safetensors.torch.save(
        safetensors.torch.load(w) | {"x": torch.zeros(3)}
    ),
    "other shapes": lambda w: safetensors.torch.save(
        {k: v[None] for k, v in safetensors.torch.load(w).items()}
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_hostile_weights_are_named(capsys: Out, run_dir: Path, tmp_path: Path, kind: str) -> None:
    whole = read_folder(next((run_dir / "model").glob("best-*")))["model.safetensors"]
    folder = shared(tmp_path, run_dir, {"model.safetensors": WEIGHTS[kind](whole)})
    assert "model.safetensors: " in refused(capsys, *sampling(folder), unchanged=[tmp_path], code=1)


MUCH: dict[str, dict[str, Any]] = {
    "more than 10^9 parameters": {"model": {"width": 2048, "num_blocks": 4, "num_scales": 2}},
    "1000 blocks of 4096 maps": {"model": {"width": 4096, "num_blocks": 1000, "num_scales": 2}},
    "10^6 blocks of one map": {
        "model": {"architecture": "modern", "width": 1, "num_couplings": 1000, "num_blocks": 1000}
    },
    "1000 blocks of one map": {"model": {"width": 1, "num_blocks": 1000, "num_scales": 2}},
    "16 scales": {
        "data": {"shape": [1, 32768, 32768]},
        "model": {"width": 1, "num_blocks": 0, "num_scales": 16},
    },
    "65536 channels": {"data": {"shape": [65536, 8, 8]}},
    "10^30 channels": {"data": {"shape": [10**30, 8, 8]}},
    "a number too large for C": {"model": {"width": 10**400}},
    "a class": {"model": {"coupling": "os.system"}},
    "a class by name": {"model": {"__class__": "os.system"}},
    "a deep one": {},
}


@pytest.mark.parametrize("kind", MUCH)
def test_a_configuration_is_refused_before_memory_is_taken(
    tiny: Config, run_dir: Path, tmp_path: Path, kind: str
) -> None:
    config: dict[str, Any] = asdict(tiny)
    for part, fields in MUCH[kind].items():
        config[part] |= fields
    text = "[" * 100_000 if kind == "a deep one" else json.dumps(config)
    folder = shared(tmp_path, run_dir, {"config.json": text.encode()})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ValueError, DamagedError), match=r"config\.json"):
        realnvp.load_flow(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_configuration_of_very_many_parts_costs_nothing(
    tiny: Config, run_dir: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the weights beside it are as much, or nobody looks at weights: no part of it is
    made.
    """
    model = asdict(tiny.model) | {
        "architecture": "modern",
        "num_couplings": 1000,
        "num_blocks": 1000,
        "width": 1,
        "growth": 1.0,
    }
    config = json.dumps(asdict(tiny) | {"model": model}).encode()
    weights = safetensors.torch.save({"x": torch.zeros(18_000_000)})
    folder = shared(tmp_path, run_dir, {"config.json": config, "model.safetensors": weights})
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_, **__: pytest.fail("a part is made"))
    with pytest.raises(
        ValueError, match=r"config\.json: model\.num_blocks: 1000 with model\.num_couplings = 1000"
    ):
        realnvp.load_flow(folder)
    assert "config.json: model.num_blocks: 1000" in refused(
        capsys, "info", folder, unchanged=[tmp_path], code=1
    )


def test_scales_that_are_left_to_the_size_are_found(
    tiny: Config, run_dir: Path, tmp_path: Path
) -> None:
    config = asdict(tiny) | {
        "data": asdict(tiny.data) | {"shape": [1, 8, 8]},
        "model": asdict(tiny.model) | {"num_scales": None},
    }
    flow = realnvp.load_flow(
        shared(tmp_path, run_dir, {"config.json": json.dumps(config).encode()})
    )
    assert flow.config is not None
    assert flow.config.model.num_scales == 2


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "..", ".", "", "x/../../secret", "absent"]
)
def test_a_manifest_cannot_lead_out(run_dir: Path, tmp_path: Path, name: str) -> None:
    """Not even to a file whose checksum it knows."""
    folder = shared(tmp_path, run_dir, {})
    (tmp_path / "secret").write_bytes(b"secret")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match=r"shared|/etc"):
        realnvp.load_flow(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "{}", "null", '{"model.safetensors": 3}', '{"x": {}}', "\udcff"]
)
def test_a_manifest_without_sense(run_dir: Path, tmp_path: Path, text: str) -> None:
    folder = shared(tmp_path, run_dir, {})
    (folder / "manifest.json").write_text(text, errors="surrogateescape")
    with pytest.raises(DamagedError, match=r"shared"):
        realnvp.load_flow(folder)


STATES: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], object]] = {
    "Adam's state of nobody": lambda state, tensors: tensors.update(
        {"optimizer.nobody.exp_avg": torch.zeros(1)}
    ),
    "Adam's state without a name": lambda state, tensors: tensors.update(
        {"optimizer.x": torch.zeros(1)}
    ),
    "other shapes": lambda state, tensors: tensors.update({k: v[None] for k, v in tensors.items()}),
    "a step of text": lambda state, tensors: state.update(step="12"),
    "no step": lambda state, tensors: state.pop("step"),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_hostile_checkpoint_is_named(
    capsys: Out, run_dir: Path, tmp_path: Path, kind: str
) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        files = read_folder(folder)
        state, tensors = (
            json.loads(files["state.json"]),
            safetensors.torch.load(files["state.safetensors"]),
        )
        STATES[kind](state, tensors)
        write_folder(
            folder,
            {
                "state.json": json.dumps(state).encode(),
                "state.safetensors": safetensors.torch.save(tensors),
            },
        )
    argv = ["train", "--config", tmp_path / "run" / "config.json", "--device", "cpu"]
    assert "checkpoints" in refused(capsys, *argv, unchanged=[tmp_path], code=1)


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
