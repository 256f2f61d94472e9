"""Curves in TensorBoard and wandb; a stand-in for wandb."""

import json
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
import json
from pathlib import Path

def write(name, value):
    with Path(__file__).with_name("calls.jsonl").open("a") as file:
        file.write(json.dumps([name, value]) + "\\n")

class Run:
    def log(self, values, step): write("log", [step, values])
    def __enter__(self): return self
    def __exit__(self, *_): write("finish", None)

def init(**options):
    write("init", {name: options[name] if name == "config" else str(options[name]) for name in options})
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

    with monkeypatch.context() as patch:
        patch.setattr(realnvp.training.loop, "train_step", stopped)
        with pytest.raises(TrainingStopped):
            train(tiny, tmp_path, device="cpu")
    train(tiny, tmp_path, device="cpu")
    curves = EventAccumulator(str(tmp_path / "curves")).Reload()
    assert [point.step for point in curves.Scalars("train_bits_per_dim")] == [5, 10, 12]


def test_wandb_gets_configuration_and_points(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(WANDB)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    config = replace(tiny, train=replace(tiny.train, tracker="wandb"))
    train(config, tmp_path / "run", device="cpu")
    calls = [json.loads(line) for line in (package / "calls.jsonl").read_text().splitlines()]
    names = [name for name, _ in calls]
    assert names[0] == "init"
    assert names[-1] == "finish"
    assert calls[0][1]["name"] == "run"
    assert calls[0][1]["config"]["train.batch_size"] == 32
    assert [step for name, (step, *_) in calls[1:-1]] == [5, 6, 10, 12, 12]
    assert "validation_bits_per_dim" in calls[2][1][1]
