"""Curves in TensorBoard, and in a stand-in for wandb."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

import realnvp.training.loop
from realnvp.config import Config
from realnvp.training.loop import train
from realnvp.training.run import Run
from realnvp.training.session import TrainingStopped

WANDB = """
class Run:
    calls = []
    def log(self, values, step): self.calls.append((step, values))
    def __enter__(self): return self
    def __exit__(self, *_): self.calls.append("finish")

def init(**options):
    Run.calls.append(options)
    return Run()
"""


def test_curves_of_tensorboard_continue_without_a_gap(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    step_of_the_loop = realnvp.training.loop.train_step

    def stopped(run: Run, x: Tensor) -> tuple[float, float, int]:
        os.kill(os.getpid(), signal.SIGTERM) if run.state.step == 4 else None
        return step_of_the_loop(run, x)

    config = replace(tiny, train=replace(tiny.train, tracker="tensorboard"))
    with monkeypatch.context() as patch:
        patch.setattr(realnvp.training.loop, "train_step", stopped)
        with pytest.raises(TrainingStopped):
            train(config, tmp_path, device="cpu")
    train(config, tmp_path, device="cpu")
    curves = EventAccumulator(str(tmp_path / "curves")).Reload()
    assert [point.step for point in curves.Scalars("train_bits_per_dim")] == [5, 10, 12]


def test_wandb_gets_configuration_and_points(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    config = replace(tiny, train=replace(tiny.train, tracker="wandb"))
    train(config, tmp_path / "run", device="cpu")
    options, *points, end = sys.modules["wandb"].Run.calls
    assert (options["name"], options["config"]["train.batch_size"], end) == ("run", 32, "finish")
    assert [step for step, _ in points] == [5, 6, 10, 12, 12]
    assert "validation_bits_per_dim" in points[1][1]
