"""Curves in other places than TensorBoard; a stand-in for wandb, of which Accelerate calls four
functions.
"""

import dataclasses
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType

from realnvp.cli.main import run
from realnvp.config import TRACKERS, Config, to_json
from realnvp.training.loop import train

Calls = list[tuple[str, Any]]
WANDB = """
import json, os
from pathlib import Path
def say(name, value):
    with Path(__file__).with_name("calls.jsonl").open("a") as file: file.write(json.dumps([name, value]) + "\\n")
    if os.environ.get("FAILS") == name: raise RuntimeError("the service is\\ngone")
class config:
    def update(values, **options): say("config", values)
class Run:
    def log(self, values, step): say("log", [step, values])
    def finish(self): say("finish", None)
def init(**options):
    say("init", options)
    return Run()
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Calls]:
    """What was called of the stand-in."""
    package = tmp_path / "site" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(WANDB)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(
        accelerate.tracking, "_available_trackers", [LoggerType.WANDB]
    )  # which it looks for once, at its import
    return lambda: [
        tuple(json.loads(line)) for line in (package / "calls.jsonl").read_text().splitlines()
    ]


def with_wandb(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, tracker="wandb", **changes)
    )


def test_wandb_gets_the_configuration_and_the_curves(
    wandb: Callable[[], Calls], tiny: Config, tmp_path: Path
) -> None:
    train(with_wandb(tiny), tmp_path / "mine", device="cpu")
    calls = wandb()
    run_dir = str(tmp_path / "mine")
    assert calls[0] == (
        "init",
        {"project": "realnvp", "name": "mine", "group": "mine", "dir": run_dir},
    )
    assert calls[1][0] == "config"
    assert (
        calls[1][1].items()
        >= {"train.lr": 0.001, "data.set": "digits", "data.shape": "(1, 8, 8)", "seed": 0}.items()
    )
    logged = [value for name, value in calls if name == "log"]
    lines = [
        json.loads(line) for line in (tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()
    ]
    assert logged == [
        [line["step"], {k: v for k, v in line.items() if k not in ("step", "seconds")}]
        for line in lines
    ]
    assert calls[-1] == ("finish", None)
    assert not (tmp_path / "mine" / "curves").exists()


def test_a_resumed_training_goes_on_at_its_step(
    wandb: Callable[[], Calls], tiny: Config, tmp_path: Path
) -> None:
    train(with_wandb(tiny, max_steps=6), tmp_path / "mine", device="cpu")
    train(with_wandb(tiny, max_steps=12), tmp_path / "mine", device="cpu")
    starts = [value for name, value in wandb() if name == "init"]
    assert [start["group"] for start in starts] == ["mine", "mine"]
    steps = [value[0] for name, value in wandb() if name == "log"]
    assert steps == sorted(steps)
    assert steps[-1] == 12


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_training_outlives_its_tracker(
    wandb: Callable[[], Calls],
    tiny: Config,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    monkeypatch.setenv("FAILS", fails)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = train(with_wandb(tiny), tmp_path / "mine", device="cpu")
    assert state.step == 12
    words = [str(warning.message) for warning in caught if "tracker" in str(warning.message)]
    assert words == [
        "train.tracker: wandb failed, so the training goes on without it: the service is gone"
    ]
    assert sum(name == fails for name, _ in wandb()) == 1
    for name in ("metrics.jsonl", "config.json"):
        assert len((tmp_path / "mine" / name).read_text().splitlines()) == len(
            (run_dir / name).read_text().splitlines()
        )


def test_a_tracker_that_does_not_start_is_told_before_anything_is_written(
    wandb: Callable[[], Calls],
    tiny: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FAILS", "init")
    (tmp_path / "config.json").write_text(to_json(with_wandb(tiny)))
    assert (
        run(
            [
                "train",
                "--config",
                str(tmp_path / "config.json"),
                "--run-dir",
                str(tmp_path / "mine"),
                "--device",
                "cpu",
            ]
        )
        == 2
    )
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("realnvp")]
    words = "the service is gone; WANDB_MODE=offline needs no account"
    assert line == f"realnvp: error: train.tracker: wandb does not start: {words}"
    assert not (tmp_path / "mine").exists()


ABSENT = [name for name in TRACKERS if name != "none" and importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("tracker", ABSENT)
def test_a_tracker_that_is_not_installed(
    tmp_path: Path, tracker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train",
        "digits",
        "--run-dir",
        str(tmp_path / "mine"),
        "--device",
        "cpu",
        "--train.tracker",
        tracker,
    ]
    assert run(command) == 2
    expected = f"realnvp: error: train.tracker: {tracker} is not installed: pip install {tracker}, or --train.tracker none\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "mine").exists()
