"""Files are written whole or not at all, and checked when they are read."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import realnvp
from realnvp.cli.main import run
from realnvp.config.fields import Config
from realnvp.io.files import (
    DamagedError,
    atomic_write,
    lock_folder,
    read_safetensors,
    remove_stale,
    write_safetensors,
    write_text,
)
from realnvp.io.pretrained import load_config, load_model, pretrained

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1, dtype=torch.int64)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "x.safetensors"
    write_safetensors(path, TENSORS, {"facts": {"name": "é\n"}})
    return path


def test_round_trip(stored: Path, tmp_path: Path) -> None:
    tensors, metadata = read_safetensors(stored)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert metadata == {"facts": {"name": "é\n"}}
    write_safetensors(tmp_path / "again.safetensors", TENSORS, metadata)
    assert (tmp_path / "again.safetensors").read_bytes() == stored.read_bytes()


@given(st.data())
def test_each_flip_and_cut_is_found(stored: Path, data: st.DataObject) -> None:
    content = bytearray(stored.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    path = stored.with_name("changed.safetensors")
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"changed\.safetensors"):
        read_safetensors(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")

    def fail() -> None:
        with atomic_write(tmp_path / "x") as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_writers_have_temporaries_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first")
        second.write(b"second")
        remove_stale(tmp_path)
        assert len([*tmp_path.iterdir()]) == 2
    assert path.read_bytes() == b"first"


def test_only_old_temporaries_of_ours_are_deleted(tmp_path: Path) -> None:
    old = time.time() - 2 * 24 * 60 * 60
    names = [".x.0123456789abcdef.realnvp.tmp", ".mine.tmp", "x.realnvp.tmp", ".y.realnvp.tmp"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (old, old))
    remove_stale(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:]}


def test_a_locked_folder_is_refused_until_its_process_ends(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from realnvp.io.files import lock_folder\n"
        "with lock_folder(pathlib.Path(sys.argv[1])): print('in', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(ValueError, match=str(tmp_path)), lock_folder(tmp_path):
            pass
        other.kill()
    with lock_folder(tmp_path):
        pass


def test_a_saved_flow_is_the_same_flow(tiny: Config, run_dir: Path, tmp_path: Path) -> None:
    flow, facts = load_model(run_dir)
    realnvp.save_flow(flow, tmp_path / "flow.safetensors", facts=facts)
    again, known = load_model(tmp_path / "flow.safetensors")
    assert known == facts
    assert load_config(tmp_path / "flow.safetensors") == flow.config
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 17
    assert torch.equal(again.log_prob(x), flow.log_prob(x))
    assert all(weight.requires_grad for weight in again.parameters())


@pytest.mark.parametrize("name", pretrained())
def test_pretrained_flows_load(name: str) -> None:
    flow = realnvp.load_flow(name)
    assert not flow.training
    assert flow.sample(1).isfinite().all()


def test_what_is_no_flow_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04.")
    for where, error in (
        ("photos-33", ValueError),
        (tmp_path / "empty", ValueError),
        (tmp_path / "x.safetensors", DamagedError),
    ):
        with pytest.raises(error, match=str(where)):
            realnvp.load_flow(where)


def test_a_package_has_a_card_and_no_paths(evaluated: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder = tmp_path / "digits-tiny"
    assert run(["package", str(evaluated), str(folder), "--license", "mit"]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    card = hub.ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.dataset_name) == ("bits_per_dim", "digits")
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
        assert str(evaluated).encode() not in path.read_bytes()
    _, facts = load_model(folder)
    assert facts["evaluation"]["bits_per_dim"] == result.metric_value
    assert run(["package", str(evaluated), str(folder)]) == 2  # a card may be somebody's work
