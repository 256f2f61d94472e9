"""The commands as a user runs them: results as JSON, exit codes, one line for bad input."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import realnvp
from realnvp.cli.main import COMMANDS, main, run
from realnvp.cli.options import set_threads
from realnvp.config import Config, to_json
from tests.told import Out, answer, refused


def test_evaluate_equals_python(capsys: Out, run_dir: Path) -> None:
    images = np.load(run_dir / "data" / "test.npy").transpose(0, 3, 1, 2)
    expected = realnvp.bits_per_dim(realnvp.load_flow(run_dir), images, noise_draws=3, seed=1)
    result = answer(capsys, "evaluate", run_dir, "--noise-draws", "3", "--seed", "1")
    assert result["bits_per_dim"] == pytest.approx(expected.mean, abs=1e-6)
    assert result["standard_error"] == pytest.approx(expected.standard_error, abs=1e-6)


def test_evaluate_other_images(capsys: Out, run_dir: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "others.npy", np.full((7, 8, 8), 3, np.uint8))
    result = answer(capsys, "evaluate", run_dir, "--data.source", tmp_path / "others.npy")
    assert result["num_images"] == 7


def test_samples_are_functions_of_seed_and_index(
    capsys: Out, run_dir: Path, tmp_path: Path
) -> None:
    command = ["sample", run_dir, "--seed", "5"]
    result = answer(capsys, *command, "-n", "70", "--out", tmp_path / "s.npy")
    assert result["nonfinite"] == 0
    samples = np.load(tmp_path / "s.npy")
    assert (samples.shape, samples.dtype) == ((70, 8, 8, 1), np.uint8)
    assert samples.max() <= 16
    answer(capsys, *command, "-n", "3", "--out", tmp_path / "few.npy")
    assert (np.load(tmp_path / "few.npy") == samples[:3]).all()
    answer(capsys, *command, "-n", "4", "--beside-data", "--out", tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width > 256
    quick = answer(capsys, *command, "-n", "9", "--fast", "--out", tmp_path / "fast.npy")
    assert 0 < quick["fast_error_gray_levels"] < 1


def test_check_fails_on_a_flow_that_is_not_invertible(
    capsys: Out, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realnvp.bijections import BatchNorm

    assert answer(capsys, "check", run_dir)["ok"]
    monkeypatch.setattr(BatchNorm, "_inverse", lambda self, z, context=None: z)
    assert not answer(capsys, "check", run_dir, code=1)["ok"]


def test_presets_version_completion(capsys: Out) -> None:
    presets: Any = answer(capsys, "presets")
    assert presets["cifar10"]["parameters"] == 19_609_545
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"realnvp {realnvp.__version__}\n"
    assert run(["--tyro-print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert {"evaluate", "photos-modern", "train.max-steps"} <= {
        word for word in ("evaluate", "photos-modern", "train.max-steps") if word in script
    }


@pytest.mark.parametrize("command", [*COMMANDS, "train photos"])
def test_help_has_an_example(capsys: Out, command: str) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert "Example" in capsys.readouterr().out


def test_print_config(capsys: Out) -> None:
    assert run(["train", "digits", "--train.lr", "0.5", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["lr"] == 0.5


@pytest.mark.parametrize(
    "argv",
    [
        ["unknown"],
        ["train", "unknown"],
        ["train", "digits", "--train.unknown", "1"],
        ["sample"],
        ["sample", "RUN", "-n", "many"],
        ["sample", "RUN", "--which", "worst"],
        ["presets", "extra"],
    ],
)
def test_wrong_usage_exits_with_2(capsys: Out, argv: list[str]) -> None:
    assert run(argv) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["-n", "0"], "-n"),
        (["--threads", "0"], "--threads"),
        (["--threads", "100000"], "--threads"),
        (["--out", "x.jpg"], "--out"),
        (["--out", "."], "--out"),
        (["--class", "7"], "--class"),
        (["--device", "cuda:7"], "device"),
    ],
)
def test_bad_values_are_one_line_with_the_flag(
    capsys: Out, run_dir: Path, flags: list[str], name: str
) -> None:
    assert name in refused(capsys, "sample", run_dir, *flags)


def test_a_run_that_is_not_there(capsys: Out, tmp_path: Path) -> None:
    assert "missing" in refused(capsys, "evaluate", tmp_path / "missing")


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    def interrupt(self: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["presets"], "__call__", interrupt)
    assert run(["presets"]) == 130


def test_sigterm_exits_with_143_and_leaves_no_half_written_file(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "realnvp.evaluation.samples.write_samples",
        lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM),
    )
    try:
        with pytest.raises(SystemExit, match="143"):
            main(["sample", str(run_dir), "--out", str(tmp_path / "s.npy"), "--device", "cpu"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not [*tmp_path.iterdir()]


def test_a_reader_that_ends_early(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert run(["presets"]) == 1
    assert capsys.readouterr().err == ""


def test_too_little_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Out, run_dir: Path
) -> None:
    def exhaust(self: object) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB.")

    monkeypatch.setattr(COMMANDS["presets"], "__call__", exhaust)
    assert "memory" in refused(capsys, "presets")


@pytest.mark.slow
def test_sigterm_stops_a_training_that_resumes(tiny: Config, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        to_json(tiny).replace('"max_steps": 12', '"max_steps": 100000')
    )
    command = [sys.executable, "-m", "realnvp", "train", "--config", "config.json"]
    process = subprocess.Popen(
        [*command, "--run-dir", "run", "--device", "cpu"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoints = tmp_path / "run/checkpoints"
    for _ in range(600):
        if checkpoints.exists() and any(checkpoints.iterdir()):
            break
        threading.Event().wait(0.1)
    process.send_signal(signal.SIGTERM)
    assert "Traceback" not in process.communicate(timeout=600)[1]
    assert process.returncode == 143


def test_threads_leave_busy_cores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads on two cores of which one is busy are ten times slower than one."""
    psutil = pytest.importorskip("psutil")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: [1, 3], raising=False)
    before, cpu = torch.get_num_threads(), torch.device("cpu")
    try:
        for usage, device, threads, expected in (
            ([100.0, 0.0, 100.0, 0.0], cpu, None, 2),
            ([0.0, 30.0, 0.0, 10.0], cpu, None, 2),
            ([0.0, 90.0, 0.0, 0.0], cpu, None, 1),
            ([0.0, 100.0, 0.0, 100.0], cpu, None, 1),
            ([0.0, 100.0, 0.0, 100.0], cpu, 2, 2),
            ([0.0, 100.0, 0.0, 100.0], torch.device("cuda"), None, 2),
        ):
            monkeypatch.setattr(psutil, "cpu_percent", lambda usage=usage, **_: usage)
            torch.set_num_threads(2)
            set_threads(threads, device)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
