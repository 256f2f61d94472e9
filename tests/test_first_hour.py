"""The first hour: whatever was trained can be used, and nobody waits without knowing for what."""

import dataclasses
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_training import final_tensors, interrupt_at, step_of_the_loop, with_train
from told import Out, answer, listing, refused
from torch import Tensor

import realnvp.training.forecast
import realnvp.training.loop
import realnvp.training.validation
from realnvp.cli.main import run
from realnvp.config import PRESETS, Config, DataConfig, resolve
from realnvp.evaluation.likelihood import Summary
from realnvp.io.checkpoint import TrainState
from realnvp.io.files import DamagedError
from realnvp.io.pretrained import load_model
from realnvp.progress import Report, progress
from realnvp.training.forecast import Pace, Plan, how_to_be_faster
from realnvp.training.loop import train
from realnvp.training.run import Run
from realnvp.training.session import TrainingStopped


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
        patch.setattr(realnvp.training.loop, "train_step", train_step)
        with pytest.raises(MemoryError):
            train(with_train(tiny, average=average), tmp_path / "run", device="cpu")
    with pytest.warns(UserWarning, match="no model yet; the weights of its checkpoint at step 4"):
        flow, facts = load_model(tmp_path / "run")
    assert run(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert facts == {"step": 4}
    tensors, kind = final_tensors(tmp_path / "run"), "average" if average else "flow"
    for name, weight in flow.named_parameters():
        assert torch.equal(weight, tensors[f"{kind}.{name}"])


def test_slow_steps_are_saved_every_ten_minutes(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of four minutes each: saved after the fourth, when three have been counted."""
    ticks = iter(range(0, 10**6, 240))
    monkeypatch.setattr(realnvp.training.loop, "clock", lambda: float(next(ticks)))
    config = with_train(tiny, max_steps=7, eval_every=7, sample_every=7, save_every=100)
    train(config, tmp_path / "run", device="cpu")
    checkpoints = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == ["step-000000004", "step-000000007"]


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


# Nobody waits without knowing for what


class Waits:
    """In place of an event that a thread waits for: how long it would have waited, ten times."""

    waited: list[float]

    def __init__(self) -> None:
        type(self).waited = []

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return len(self.waited) == 10

    def set(self) -> None:
        """Nobody waits."""


def test_lines_come_by_the_clock_even_if_nothing_is_done(
    capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realnvp.progress.FIRST_LINE", 5.0)
    monkeypatch.setattr("realnvp.progress.Event", Waits)
    with progress("step", 20):
        pass
    assert Waits.waited == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    assert capsys.readouterr().err.splitlines() == ["step 0/20  0s so far"] * 9


def test_a_line_has_what_is_left(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("step", 20, start=4)
    report.began -= 30
    report(7)
    assert report.line == "step 7/20  2m 10s left"
    report(7, "3.1 bits/dim", 30, left=3725)
    assert report.line == "step 7/30  3.1 bits/dim  1h 02m left"
    monkeypatch.setattr("realnvp.progress.FIRST_LINE", 0.0)
    with progress("image", 3) as report:
        report.began -= 1
        while not capsys.readouterr().err:
            pass
        report(3)
    assert capsys.readouterr().err.splitlines()[-1] == "image 3/3  0s left"


def paced(*seconds: float, forwards: float = 6, **recipe: Any) -> Pace:
    pace = Pace(dataclasses.replace(PRESETS["digits"].train, **recipe), forwards)
    for each in seconds:
        pace.took(each)
    return pace


def test_a_cold_first_step_is_forgotten() -> None:
    assert paced(9).step == 9
    assert not paced(9, 1).warm
    assert paced(9, 1, 2, 3).step == 2
    assert abs(paced(9, *[1] * 60, *[2] * 300).step - 2) < 0.01


def test_what_is_to_come() -> None:
    """Steps of 2 s; an evaluation is worth 6 forward passes of a third of a step: 4 s."""
    pace = paced(2, max_steps=25, eval_every=10)
    assert pace.plan(TrainState(step=0)) == Plan(25, 24, 50 + 3 * 4)
    assert pace.plan(TrainState(step=3)) == Plan(25, 18, 44 + 3 * 4)
    assert pace.plan(TrainState(step=20)) == Plan(25, 14, 10 + 4)
    assert pace.plan(TrainState(step=20, pending=True)) == Plan(25, 4, 10 + 2 * 4)
    assert pace.plan(TrainState(step=25, pending=True)) == Plan(25, 4, 4)
    assert pace.plan(TrainState(step=25)) == Plan(25, 0, 0)
    pace.evaluation = 7
    assert pace.plan(TrainState(step=20)) == Plan(25, 17, 10 + 7)
    budget = paced(2, max_steps=None, max_minutes=1, eval_every=20)
    assert budget.plan(TrainState(step=5, training_seconds=10)) == Plan(30, 30 + 4, 50 + 2 * 4)
    both = paced(2, max_steps=25, max_minutes=1, eval_every=20)
    assert both.plan(TrainState(step=5, training_seconds=10)).steps == 25


def test_a_training_says_what_it_takes_and_what_it_does(
    capsys: Out, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []

    @contextmanager
    def recorded(*args: Any, **settings: Any) -> Iterator[Any]:
        yield lambda *report: told.append(report)

    monkeypatch.setattr(realnvp.training.loop, "progress", recorded)
    train(tiny, tmp_path / "run", device="cpu")
    pattern = (
        r"[\d,]+ parameters, [\d.]+ (GiB|MiB) of [\d.]+ GiB of memory, [\d.e-]+ s a step on cpu; "
        r"first evaluation in \d+s, end in \d+s"
    )
    assert len(re.findall(pattern, capsys.readouterr().err)) == 1
    words = [report[1] for report in told]
    for doing in (
        "evaluating: batch norm's moments, 3/4 batches",
        "evaluating: 0/60 images",
        "drawing samples",
        "saving",
    ):
        assert doing in words
    assert [report[0] for report in told if "bits/dim" in report[1]] == [*range(1, 13), 12]
    step, words, total, left = told[-1]
    assert (step, total, left) == (12, 12, 0)


def test_a_training_of_hours_names_what_fits() -> None:
    def lines(preset: str, seconds: float, **recipe: Any) -> list[str]:
        config = resolve(PRESETS[preset], (3, 16, 16))
        train = dataclasses.replace(config.train, **recipe)
        config = dataclasses.replace(config, train=train)
        return how_to_be_faster(config, seconds, torch.device("cpu"))

    assert lines("images", 3599) == []
    assert lines("images", 7200, max_minutes=120) == []
    (line,) = lines("images", 72000)
    assert re.search(r"This takes 20h 00m\. realnvp train images-modern: roughly \d", line)
    assert "--train.max-minutes 60" in line
    assert "realnvp train" not in lines("images-modern", 7200)[0]


def test_a_dry_run_is_a_page_of_words(capsys: Out, tmp_path: Path) -> None:
    command = ["train", "digits-modern", "--dry-run", "--device", "cpu", "--model.width", "4"]
    assert run([*command, "--run-dir", str(tmp_path / "run")]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for part in (
        "preset digits-modern: modern, 1 scale, width 4, 1 block",
        "data digits: 1,437 train, 180 validation, 180 test images of 8x8 pixels, 1 channel",
        "s, 32 images on cpu (3 steps timed)",
        "an evaluation and samples every 250 steps",
        "at step 2,000",
    ):
        assert part in page
    assert [*tmp_path.iterdir()] == []
    found = answer(capsys, *command, "--run-dir", tmp_path / "run")
    assert found.keys() >= {
        "memory_available_bytes",
        "seconds_per_step",
        "seconds_to_first_evaluation",
        "seconds_to_end",
    }
    assert float(str(found["seconds_per_step"])) * 2000 < float(str(found["seconds_to_end"]))


def test_a_dry_run_of_long_steps_takes_short_ones(
    capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of n examples takes 2 + n seconds: 10 with 8, so 34 with all 32."""
    sizes: list[int] = []
    now = 0.0

    def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
        nonlocal now
        now += 2 + len(x)
        sizes.append(len(x))
        return 0.0, 0.0, 0

    monkeypatch.setattr(realnvp.training.forecast, "train_step", train_step)
    monkeypatch.setattr(realnvp.training.forecast, "clock", lambda: now)
    command = ["train", "digits-modern", "--dry-run", "--device", "cpu", "--model.width", "4"]
    assert run([*command, "--run-dir", str(tmp_path / "run")]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "34 s, 32 images on cpu (roughly, by steps of a few)" in page
    assert max(sizes) == 8


def test_a_dry_run_of_a_run_goes_on_from_where_it_is(
    capsys: Out, tiny: Config, run_dir: Path
) -> None:
    config = str(run_dir / "config.json")
    before = listing(run_dir)
    found = answer(
        capsys,
        "train",
        "--config",
        config,
        "--dry-run",
        "--train.max-steps",
        "20",
        "--device",
        "cpu",
    )
    assert (found["step"], found["steps"]) == (12, 20)
    assert listing(run_dir) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train.batch-size", "100000"], "train.batch_size"),
        (["--model.width", "2000", "--train.batch-size", "1000"], "a training needs about"),
        (["--device", "cuda:99"], "--device"),
    ],
)
def test_a_dry_run_refuses_what_the_training_refuses(
    capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], words: str
) -> None:
    monkeypatch.setattr("realnvp.training.memory.memory_limit", lambda: 2**30)
    command = ["train", "digits", "--run-dir", tmp_path / "run", *flags]
    said = refused(capsys, *command, "--dry-run")
    assert words in said
    assert refused(capsys, *command) == said


def test_a_dry_run_of_another_training_is_refused(capsys: Out, run_dir: Path) -> None:
    config = str(run_dir / "config.json")
    command = ["train", "--config", config, "--train.lr", "0.1", "--device", "cpu"]
    said = refused(capsys, *command, "--dry-run", unchanged=[run_dir])
    assert "this run was started with another train.lr (0.001, not 0.1)" in said
