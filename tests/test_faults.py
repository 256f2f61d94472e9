"""Shorter forms of tests/faults: kills, bad disks, flipped bits, a lost process; and a best model
that is lost.
"""

import dataclasses
import itertools
import os
import random
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import realnvp.training.validation
from realnvp.cli.main import run
from realnvp.config import Config
from realnvp.evaluation.likelihood import BitsPerDim
from realnvp.flows.flow import Flow
from realnvp.io.files import numbered
from realnvp.io.pretrained import load_flow
from realnvp.training.loop import train
from tests.faults import kill, others, storage
from tests.faults.children import Child
from tests.faults.others import joined
from tests.faults.subjects import SUBJECTS, TINY, differences, training, warm


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "times", "signum"),
    [
        ("training", 5, signal.SIGKILL),
        ("training", 3, signal.SIGTERM),
        ("figures", 2, signal.SIGKILL),
    ],
)
def test_killed_at_random_moments(
    tmp_path: Path, name: str, times: int, signum: signal.Signals
) -> None:
    assert (
        kill.kill(SUBJECTS[name](tmp_path), times, tmp_path, random.Random(0), signum).kills
        == times
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_full_disk_is_told_and_spoils_nothing(tmp_path: Path, name: str) -> None:
    """At some of the writes; python -m tests.faults.storage tries each."""
    assert (
        storage.full(SUBJECTS[name](tmp_path), tmp_path, at=lambda writes: [1, writes // 2, writes])
        == 3
    )


def test_a_full_disk_is_told_with_the_bytes_that_are_needed(tmp_path: Path) -> None:
    """The system itself refuses, by a limit on the size of files."""
    import resource

    subject, log = training(tmp_path), tmp_path / "log"
    size = resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY)
    child = Child([*subject.command, tmp_path / "run"], log, lambda: resource.setrlimit(*size))
    child.complain(
        str(tmp_path / "run" / "data" / "train.npy"),
        "File too large",
        "errno 27",
        "92,096 bytes are needed",
    )
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.slow
def test_flips_and_truncations_are_told(tmp_path: Path) -> None:
    train(TINY, tmp_path / "run", device="cpu")
    told = storage.flips(tmp_path / "run", 100, random.Random(0))
    assert told.keys() == {"checkpoints", "model", "data"}
    description = tmp_path / "run" / "data" / "dataset.json"
    assert (
        storage.flips(tmp_path / "run", 300, random.Random(1), files=[description]).total() == 300
    )


def test_a_run_directory_that_vanishes(tmp_path: Path) -> None:
    storage.vanishing(training(tmp_path), tmp_path)


def test_a_folder_that_is_not_to_be_written(tmp_path: Path, tiny: Config) -> None:
    subject, folder = training(tmp_path), tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(place.stat().st_mode | 0o055)
    child = Child(
        [*subject.command, folder / "new"],
        tmp_path / "log",
        lambda: os.geteuid() or os.setuid(65534),
    )
    child.complain(str(folder / "new"), "Permission denied", "errno 13")
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "fault"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_one_of_two_processes_is_lost(tmp_path: Path, victim: int, fault: signal.Signals) -> None:
    words, _, _ = others.survivor(tmp_path, victim=victim, fault=fault)
    assert "another process has ended, or has not answered for train.timeout = 5 seconds" in words
    assert "Traceback" not in words


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both(tmp_path: Path) -> None:
    """In the middle of an evaluation; when they are resumed, the run becomes the one that nobody
    stopped.
    """
    warm()
    subject, batches = training(tmp_path), itertools.count(1)

    def signalled(rank: int) -> None:
        log_prob = Flow.log_prob

        def signalling(flow: Flow, x: Tensor) -> Tensor:
            if next(batches) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return log_prob(flow, x)

        if rank == 1:
            Flow.log_prob = signalling  # type: ignore[method-assign]

    def both(
        run: str, code: int, words: str, first: Callable[[int], object] = lambda rank: None
    ) -> None:
        two = joined([*subject.command, tmp_path / run], tmp_path, first)
        assert [child.wait() for child in two] == [code, code], [
            child.log.read_text() for child in two
        ]
        assert words in two[0].log.read_text()

    both("run", 143, "stopped at step 4 and saved", signalled)
    both("run", 0, "finished")
    both("whole", 0, "finished")
    assert differences(subject.wrote(tmp_path / "run"), subject.wrote(tmp_path / "whole")) == []


def damage_best(run_dir: Path) -> str:
    weights = numbered(run_dir / "model", "best")[-1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return str(weights)


def test_a_finished_training_tells_that_its_best_model_is_damaged(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    weights = damage_best(tmp_path / "run")
    assert run(["train", "--config", str(tmp_path / "run" / "config.json"), "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert weights in captured.err
    assert "finished" not in captured.out


def test_a_training_that_goes_on_replaces_a_lost_best_model(
    tiny: Config, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a worse one."""
    monkeypatch.setattr(
        realnvp.training.validation,
        "validate",
        lambda run: BitsPerDim(99.0, 0.1, torch.tensor([99.0]), 0),
    )
    shutil.copytree(run_dir, tmp_path / "run")
    weights = damage_best(tmp_path / "run")
    longer = dataclasses.replace(
        tiny, train=dataclasses.replace(tiny.train, max_steps=13, eval_every=13)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert train(longer, tmp_path / "run", device="cpu").best_step == 13
    assert any(weights in str(warning.message) for warning in caught)
    load_flow(tmp_path / "run")
