"""Curves in TensorBoard, and in a stand-in for wandb."""

import signal
import sys
from pathlib import Path

import pytest

from realnvp.config import Config
from realnvp.training.loop import train
from realnvp.training.session import TrainingStopped
from tests.test_training import signal_at, with_train

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

    config = with_train(tiny, tracker="tensorboard")
    with monkeypatch.context() as patch:
        signal_at(patch, {4}, signal.SIGTERM)
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
    train(with_train(tiny, tracker="wandb"), tmp_path / "run", device="cpu")
    options, *points, end = sys.modules["wandb"].Run.calls
    assert (options["name"], options["config"]["train.batch_size"], end) == ("run", 32, "finish")
    assert [step for step, _ in points] == [5, 6, 10, 12, 12]
    assert "validation_bits_per_dim" in points[1][1]
