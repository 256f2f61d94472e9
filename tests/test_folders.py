"""Stored files: whole or not at all, and a changed bit is told."""

import itertools
import random
import shutil
import warnings
from pathlib import Path
from typing import IO

import pytest
import torch

from realnvp import load_flow, save_flow
from realnvp.cli.main import run
from realnvp.config import Config
from realnvp.flows.build import build
from realnvp.io.files import (
    DamagedError,
    keep_last,
    lock_folder,
    newest_intact,
    numbered,
    read_folder,
    remove_stale,
    write_folder,
)


def test_there_and_back(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"x": b"1", "y": b""})
    assert read_folder(tmp_path / "a") == {"x": b"1", "y": b""}
    write_folder(tmp_path / "a", {"x": b"2", "y": b"3"})
    assert read_folder(tmp_path / "a") == {"x": b"2", "y": b"3"}
    with pytest.raises(ValueError, match="a: exists and holds 'y'"):  # of another kind
        write_folder(tmp_path / "a", {"x": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_counted_by_plain_digits_alone(tmp_path: Path) -> None:
    for name in (
        "step-7",
        "step-10",
        "step-²",
        "step-٩",
        "step-",
        "step-7 copy",
        "step-+8",
        "best-3",
    ):
        (tmp_path / name).mkdir()
    assert [path.name for path in numbered(tmp_path, "step")] == ["step-7", "step-10"]


def test_what_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match="mine"):
        write_folder(tmp_path / "mine", {"x": b"1"})
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_every_flipped_bit_and_truncation_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "step-1", {"x": bytes(range(256)), "y.json": b'{"a": 1}'})
    choose = random.Random(0)
    for _ in range(300):
        path = choose.choice(sorted((tmp_path / "step-1").iterdir()))
        content = path.read_bytes()
        damaged = bytearray(content)
        if choose.random() < 0.3:
            del damaged[choose.randrange(len(damaged)) :]
        else:
            damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match="step-1"):
            read_folder(tmp_path / "step-1")
        path.write_bytes(content)
    read_folder(tmp_path / "step-1")


def test_the_newest_intact_one_is_used_and_bad_ones_named(tmp_path: Path) -> None:
    for number in (2, 10):
        write_folder(tmp_path / f"step-{number}", {"x": str(number).encode()})
    assert newest_intact(tmp_path, "step") == ({"x": b"10"}, [])
    (tmp_path / "step-10" / "x").unlink()
    files, complaints = newest_intact(tmp_path, "step")
    assert files == {"x": b"2"}
    assert "step-10" in complaints[0]


def test_a_deletion_that_is_interrupted_leaves_no_half_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a folder would have no manifest: it could neither be read nor replaced."""
    for number in (1, 2):
        write_folder(tmp_path / f"step-{number}", {"x": b""})

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        if folder.exists():
            (folder / "manifest.json").unlink()
            raise KeyboardInterrupt

    for delete in (
        lambda: keep_last(tmp_path, "step", 1),
        lambda: write_folder(tmp_path / "step-2", {"x": b""}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                delete()
        assert [read_folder(folder) for folder in numbered(tmp_path, "step")] in ([{"x": b""}], [])
    write_folder(tmp_path / "step-2", {"x": b""})
    remove_stale(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]


def test_orphans_of_an_interrupted_write_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".step-000000003.tmp").mkdir()
    (tmp_path / ".step-000000003.tmp" / "x").write_text("")
    (tmp_path / ".config.json.tmp").write_text("")
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "new" / "er"):
        with lock_folder(folder):
            with pytest.raises(ValueError, match="another process is at work"), lock_folder(folder):
                pass
            assert (folder / ".lock").exists()
    with lock_folder(tmp_path / "kept"):
        (tmp_path / "kept" / "x").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "x"]


def test_a_lock_whose_file_was_deleted_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder deletes the file, and the folder, while another process has opened the one and
    not yet locked it.
    """
    fcntl = pytest.importorskip("fcntl")
    flock, times = fcntl.flock, itertools.count()

    def late(file: IO[bytes], how: int) -> None:
        if next(times) == 0:
            shutil.rmtree(tmp_path / "run")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with (
        lock_folder(tmp_path / "run"),
        pytest.raises(ValueError, match="another process"),
        lock_folder(tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_save_and_load_a_flow(tiny: Config, tmp_path: Path) -> None:
    flow = build(tiny).eval()
    x = torch.rand(2, 1, 8, 8) * 17
    for version in (flow, flow.double()):
        save_flow(version, tmp_path / "flow")
        loaded = load_flow(tmp_path / "flow")
        assert not loaded.training
        assert loaded.config == tiny
        x = x.to(next(version.parameters()).dtype)
        assert torch.equal(loaded.log_prob(x), version.log_prob(x))


def test_a_damaged_run_is_named(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(run_dir, tmp_path / "run")
    weights = next((tmp_path / "run/model").glob("best-*")) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedError, match="best-"):
        load_flow(tmp_path / "run")
    assert run(["evaluate", str(tmp_path / "run")]) == 1
    assert "model.safetensors" in capsys.readouterr().err
    load_flow(tmp_path / "run", which="last")


def test_a_damaged_checkpoint_is_passed_over(tiny: Config, run_dir: Path, tmp_path: Path) -> None:
    import shutil

    from test_training import assert_bit_equal

    from realnvp.training.loop import train

    shutil.copytree(run_dir, tmp_path / "run")
    newest = max((tmp_path / "run/checkpoints").iterdir())
    (newest / "state.safetensors").write_bytes(b"")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tiny, tmp_path / "run", device="cpu")
    assert any(newest.name in str(warning.message) for warning in caught)
    assert_bit_equal(tmp_path / "run", run_dir)
