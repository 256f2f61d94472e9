"""The first hour: whatever was trained can be used, and nobody waits without knowing for what."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_training import final_tensors, interrupt_at, step_of_the_loop, with_train
from told import Out, answer, refused
from torch import Tensor

import realnvp.training.train
import realnvp.training.validation
from realnvp.cli.main import run
from realnvp.config import PRESETS, Config, DataConfig
from realnvp.evaluation.likelihood import Summary
from realnvp.files.records import DamagedError
from realnvp.files.saved import load_model
from realnvp.training.run import Run
from realnvp.training.train import TrainingStopped, train


@pytest.fixture
def stopped(tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of TINY that a signal stopped after its first step."""
    interrupt_at(monkeypatch, {0}, signal.SIGTERM)
    with pytest.raises(TrainingStopped, match="at step 1 and saved"):
        train(tiny, tmp_path / "run", device="cpu")
    return tmp_path / "run"


def test_a_training_that_was_stopped_at_its_first_step_can_be_used(
    capsys: Out, stopped: Path
) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stopped.parent / "0.png")
    with pytest.warns(UserWarning, match="the model of the last stop is used"):
        flow, facts = load_model(stopped)
    assert facts == {"step": 1}
    saved = final_tensors(stopped)
    # Moving moments would be nine parts of ten those of a fresh flow.
    assert not any(torch.equal(x, saved[f"flow.{name}"]) for name, x in flow.named_buffers())
    result = answer(capsys, "evaluate", stopped, "--device", "cpu")
    for command in (
        ["sample", stopped, "-n", "2", "--out", stopped / "two.png"],
        ["score", stopped, stopped.parent / "0.png"],
        ["figures", stopped, "--only", "samples"],
    ):
        assert run([*map(str, command), "--device", "cpu"]) == 0, command
    assert (result["step"], result["nonfinite"]) == (1, 0)


def test_a_stop_in_the_evaluation_before_the_first_step_leaves_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a table, whose Gaussian start is evaluated first."""
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((60, 2)))
    config = dataclasses.replace(
        PRESETS["table"], data=DataConfig("table", str(tmp_path / "rows.npy"), levels=None)
    )
    validate = realnvp.training.validation.validate

    def stopped(run: Run) -> Summary:
        os.kill(os.getpid(), signal.SIGINT)
        return validate(run)

    monkeypatch.setattr(realnvp.training.validation, "validate", stopped)
    with pytest.raises(TrainingStopped, match="at step 0 and saved"):
        train(config, tmp_path / "run", device="cpu")
    assert load_model(tmp_path / "run", "last")[1] == {"step": 0}


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_run_that_was_killed_before_its_first_model_is_its_checkpoint(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: float
) -> None:
    def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
        if run.state.step == 5:
            raise MemoryError  # nothing in the loop handles it, as nothing handles SIGKILL
        return step_of_the_loop(run, x)

    with monkeypatch.context() as patch:
        patch.setattr(realnvp.training.train, "train_step", train_step)
        with pytest.raises(MemoryError):
            train(with_train(tiny, average=average), tmp_path / "run", device="cpu")
    with pytest.warns(UserWarning, match="no model yet; the weights of its checkpoint at step 4"):
        flow, facts = load_model(tmp_path / "run")
    assert run(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert facts == {"step": 4}
    tensors, kind = final_tensors(tmp_path / "run"), "average" if average else "flow"
    for name, weight in flow.named_parameters():
        assert torch.equal(weight, tensors[f"{kind}.{name}"])


def test_a_run_without_model_and_checkpoint_says_what_to_do(capsys: Out, stopped: Path) -> None:
    shutil.rmtree(stopped / "model")
    shutil.rmtree(stopped / "checkpoints")
    assert "this run has no model yet; its training writes one when it is stopped (Ctrl-C)" in (
        refused(capsys, "evaluate", stopped, "--device", "cpu")
    )


def test_a_damaged_checkpoint_is_not_taken_for_a_model(stopped: Path) -> None:
    shutil.rmtree(stopped / "model")
    path = next(stopped.glob("checkpoints/*/state.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError, match=r"state\.safetensors: damaged"):
        load_model(stopped)
