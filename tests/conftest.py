"""A tiny trained run for many tests; failures are printed at once."""

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Any

# Models this small gain nothing from a second thread, and lose much where cores are shared.
# Read by torch when it is loaded, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from realnvp.cli.main import run
from realnvp.config.fields import Config, ModelConfig, TrainConfig
from realnvp.config.presets import PRESETS
from realnvp.training.loop import train

torch.set_num_threads(1)
FEW: dict[str, Any] = {"max_steps": 12, "batch_size": 32, "eval_images": 60, "moment_batches": 4}
EVERY = {"log_every": 5, "eval_every": 6, "sample_every": 6, "save_every": 4}
TINY = dataclasses.replace(
    PRESETS["digits"],
    model=ModelConfig(num_scales=2, width=8, num_blocks=1),
    train=TrainConfig(**FEW, **EVERY, tracker="none"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """pytest -n auto: a worker for each core that this process may use, at most eight."""
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(8, usable)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is told at once: whoever ends a run early still sees it."""
    if report.failed:
        print(f"\n{report.nodeid}\n{report.longreprtext}", file=sys.__stdout__, flush=True)


@pytest.fixture(autouse=True)
def _no_lines_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a test would else read progress where it expects nothing."""
    monkeypatch.setattr("realnvp.progress.FIRST_LINE", 3600.0)


@pytest.fixture
def tiny() -> Config:
    return TINY


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of `TINY`. Only read it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(TINY, folder, device="cpu")
    return folder


@pytest.fixture(scope="session")
def evaluated(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished training, evaluated on its test split. Only read it."""
    copy = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(run_dir, copy)
    assert run(["evaluate", str(copy), "--noise-draws", "2", "--device", "cpu"]) == 0
    return copy
