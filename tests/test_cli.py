"""The commands as a user runs them: results as JSON, exit codes, one line for bad input."""

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import realnvp
from realnvp.cli.main import COMMANDS, main, run
from tests.command_output import Out, answer


def test_evaluate_equals_python(capsys: Out, run_dir: Path) -> None:
    images = np.load(run_dir / "data" / "test.npy").transpose(0, 3, 1, 2)
    expected = realnvp.bits_per_dim(realnvp.load_flow(run_dir), images, noise_draws=3, seed=1)
    result = answer(capsys, "evaluate", run_dir, "--noise-draws", "3", "--seed", "1")
    assert result["bits_per_dim"] == pytest.approx(expected.mean, abs=1e-6)
    assert result["standard_error"] == pytest.approx(expected.standard_error, abs=1e-6)


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
    answer(capsys, *command, "-n", "4", "--out", tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (2 * 64 + 2 + 16, 2 * 64 + 2 + 16)
    answer(capsys, *command, "-n", "9", "--fast", "--out", tmp_path / "fast.npy")
    error = np.abs(np.load(tmp_path / "fast.npy").astype(int) - samples[:9])
    assert np.median(error) <= 1


def test_check_fails_on_a_flow_that_is_not_invertible(
    capsys: Out, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realnvp.bijections import BatchNorm

    assert answer(capsys, "check", run_dir)["ok"]
    monkeypatch.setattr(BatchNorm, "_inverse", lambda self, z, context=None: z)
    assert not answer(capsys, "check", run_dir, code=1)["ok"]


def test_presets_and_version(capsys: Out) -> None:
    presets: Any = answer(capsys, "presets")
    assert presets["cifar10"]["parameters"] == 19_609_545
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"realnvp {realnvp.__version__}\n"


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt, 130), (torch.OutOfMemoryError("memory"), 2)]
)
def test_errors_of_any_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Out, error: Any, code: int
) -> None:
    monkeypatch.setattr(COMMANDS["presets"], "__call__", Mock(side_effect=error))
    assert run(["presets"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_sigterm_exits_with_143_and_leaves_no_half_written_file(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "realnvp.cli.results.write_samples",
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
