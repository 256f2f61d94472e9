"""Curves in TensorBoard and a stand-in for wandb; progress, of the outermost loop alone."""

import signal
import sys
from pathlib import Path

import pytest

from realnvp import progress
from realnvp.config.fields import Config
from realnvp.progress import set_status, show_progress, track, track_slices
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


@pytest.fixture
def each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    monkeypatch.setattr(progress, "LONGEST_PAUSE", 0.0)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_slices_cover_the_count() -> None:
    assert list(track_slices(5, 2, "rows")) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(track_slices(0, 2, "rows")) == []


def test_nothing_is_shown_outside(each_line: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "items")) == [0, 1, 2]
    with show_progress(enabled=False):
        assert list(track(range(3), "items")) == [0, 1, 2]
    assert lines(capsys) == []


def test_only_the_outermost_loop_is_shown(
    each_line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress():
        for _ in track(range(2), "outer"):
            assert len(list(track_slices(10, 5, "inner"))) == 2
        list(track_slices(10, 5, "after"))
    shown = [line.split("  ")[0] for line in lines(capsys)]
    assert shown == ["outer 1/2", "outer 2/2", "after 5/10", "after 10/10"]


def test_a_loop_that_ends_early_frees_the_display(
    each_line: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress():
        for _ in track(iter("abc"), "letters"):
            break
        for _ in track(range(4, 6), "steps", total=6, start=4):
            set_status("3.812 bits/dim")
    shown = [line.split("  ")[:2] for line in lines(capsys)]
    assert shown == [["steps 5/6", "3.812 bits/dim"], ["steps 6/6", "3.812 bits/dim"]]
