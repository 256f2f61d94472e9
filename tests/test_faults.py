"""Shorter forms of `make faults`."""

import os
import random
import signal
from pathlib import Path

import pytest

from realnvp.config.fields import Config
from realnvp.io.files import DamagedError
from realnvp.io.pretrained import checkpoints_in, newest_checkpoint
from realnvp.training.loop import train
from tests import faults

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "run"
    train(faults.TINY, folder, device="cpu")  # children have all modules in memory, too
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "times"), [(signal.SIGKILL, 6), (signal.SIGTERM, 3)])
def test_killed_at_random_moments(trained: Path, tmp_path: Path, signum: int, times: int) -> None:
    assert faults.kill(tmp_path, times, random.Random(0), signum) <= faults.SAVE_EVERY


@pytest.mark.slow
def test_full_disk(trained: Path, tmp_path: Path) -> None:
    assert faults.fill_disk(tmp_path, lambda writes: [1, writes // 2, writes]) == 3


def test_flips_and_truncations_are_found(trained: Path) -> None:
    faults.flip(trained, 200, random.Random(0))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tiny: Config, tmp_path: Path) -> None:
    train(tiny, tmp_path / "run", device="cpu")
    older, newest = checkpoints_in(tmp_path / "run")
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=newest.name):
        found = newest_checkpoint(tmp_path / "run")
    assert found is not None
    assert found[1]["state"]["step"] == int(older.stem.removeprefix("step-"))
    older.write_bytes(b"")
    with pytest.raises(DamagedError, match=older.name):
        train(tiny, tmp_path / "run", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "signum"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_lost_process_ends_the_other(
    trained: Path, tmp_path: Path, victim: int, signum: int
) -> None:
    output = faults.lose(tmp_path, victim, signum)
    assert "another process" in output
    assert "Traceback" not in output
