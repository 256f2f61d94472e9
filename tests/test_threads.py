"""A CPU that others use, too, is told and spared."""

import dataclasses
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import realnvp.cli.options
from realnvp.cli.main import run as command
from realnvp.cli.options import Cores, settle_threads, watched_cores
from realnvp.config import Config
from realnvp.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture
def two_threads(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:  # the run is trained with one
    """As torch comes on two cores, where nobody has chosen."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def seen(monkeypatch: pytest.MonkeyPatch, cores: Cores | None) -> None:
    monkeypatch.setattr(realnvp.cli.options, "watched_cores", lambda: cores)


@pytest.mark.usefixtures("two_threads")
def test_torch_takes_the_free_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads, told in (
        (Cores(2, 0), 2, ""),
        (Cores(2, 1), 1, "1 of 2 cores is busy: using 1 thread (--threads N to choose)"),
        (Cores(2, 2), 1, "2 of 2 cores are busy: using 1 thread (--threads N to choose)"),
        (Cores(8, 6), 2, ""),
        (Cores(8, 7), 1, "7 of 8 cores are busy: using 1 thread (--threads N to choose)"),
        (None, 2, ""),
    ):
        torch.set_num_threads(2)
        seen(monkeypatch, cores)
        assert settle_threads(None, CPU) == told
        assert torch.get_num_threads() == threads
    torch.set_num_threads(4)
    seen(monkeypatch, Cores(4, 1))
    assert (
        settle_threads(None, CPU) == "1 of 4 cores is busy: using 3 threads (--threads N to choose)"
    )


@pytest.mark.usefixtures("two_threads")
def test_who_has_chosen_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, Cores(2, 2))
    assert settle_threads(None, torch.device("cuda")) == ""
    for name in ("OMP_NUM_THREADS", "WORLD_SIZE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "2")
            assert settle_threads(None, CPU) == ""
    assert torch.get_num_threads() == 2
    assert settle_threads(3, CPU) == ""
    assert torch.get_num_threads() == 3
    with pytest.raises(ValueError, match=r"^--threads: must be at most 1024, got 100000$"):
        settle_threads(100_000, CPU)
    with pytest.raises(ValueError, match=r"^--threads: must be at least 1, got 0$"):
        settle_threads(0, CPU)


@pytest.mark.usefixtures("two_threads")
def test_commands_say_it_on_stderr(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "realnvp: 1 of 2 cores is busy: using 1 thread (--threads N to choose)\n"
    seen(monkeypatch, Cores(2, 1))
    argv = [
        "sample",
        str(run_dir),
        "-n",
        "1",
        "--json",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "s.npy"),
    ]
    assert command(argv) == 0
    said = capsys.readouterr()
    assert said.err.startswith(line)
    assert json.loads(said.out)["num_images"] == 1
    torch.set_num_threads(2)
    assert command([*argv, "--threads", "2"]) == 0
    assert line not in capsys.readouterr().err
    assert command([*argv, "--threads", "0"]) == 2
    assert "--threads: must be at least 1" in capsys.readouterr().err


def test_what_others_do_is_seen_and_what_we_do_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine, however busy: a clock and counters of its own."""
    import psutil

    now, work = [0.0], {"others": 0.0, "ours": 0.0, "children": 0.0}

    class Process:
        def __init__(self, name: str = "ours") -> None:
            self.name = name

        def cpu_affinity(self) -> list[int]:
            return [1, 3]  # of four cores

        def children(self, recursive: bool) -> list["Process"]:
            return [Process("children"), Process("gone")] if recursive else []

        def cpu_times(self) -> object:
            if self.name == "gone":
                raise psutil.NoSuchProcess(1)
            return Times(work[self.name])

    class Times:
        def __init__(self, user: float) -> None:
            self.user, self.system = user, 0.0

    class Core:
        def __init__(self, idle: float) -> None:
            self.idle, self.iowait = idle / 2, idle / 2

    def cpu_times(percpu: bool) -> list[Core]:
        mine = 2 * now[0] - sum(work.values())
        return [Core(0.0), Core(mine), Core(0.0), Core(0.0)]

    shares: dict[str, float] = {}

    def sleep(seconds: float) -> None:
        now[0] += seconds
        for name, share in shares.items():
            work[name] += share * seconds

    monkeypatch.setattr(psutil, "Process", Process)
    monkeypatch.setattr(psutil, "cpu_times", cpu_times)
    monkeypatch.setattr(realnvp.cli.options.time, "sleep", sleep)
    monkeypatch.setattr(realnvp.cli.options.time, "monotonic", lambda: now[0])
    for working, busy in (
        ({"others": 0.0}, 0),
        ({"others": 0.3}, 0),
        ({"others": 0.8}, 1),
        ({"others": 2.0}, 2),
        ({"ours": 1.0, "children": 1.0}, 0),
        ({"ours": 0.6, "others": 1.0}, 1),
    ):
        shares.clear()
        shares.update(working)
        assert watched_cores() == Cores(2, busy)


def test_without_psutil_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert watched_cores() is None


def test_a_look_at_this_machine() -> None:
    cores = watched_cores()
    assert cores is not None
    assert 0 <= cores.busy <= cores.usable


def test_a_training_that_goes_on_otherwise_says_so(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of a step depend on the number of threads, on the device and on the networks'
    arithmetic.
    """
    short = dataclasses.replace(
        tiny, train=dataclasses.replace(tiny.train, max_steps=1, precision="auto", tracker="none")
    )
    longer, longest = (
        dataclasses.replace(short, train=dataclasses.replace(short.train, max_steps=n))
        for n in (2, 3)
    )
    monkeypatch.setattr("realnvp.training.loop.has_bfloat16", lambda device: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(short, tmp_path / "run", device="cpu")
        train(longer, tmp_path / "run", device="cpu")
    sessions = json.loads((tmp_path / "run/environment.json").read_text())
    assert [session["precision"] for session in sessions] == ["float32"] * 2
    monkeypatch.setattr("realnvp.training.loop.has_bfloat16", lambda device: True)
    torch.set_num_threads(2)
    try:
        with pytest.warns(
            UserWarning, match="run: precision float32 -> bfloat16, threads 1 -> 2: it goes on"
        ):
            train(longest, tmp_path / "run", device="cpu")
    finally:
        torch.set_num_threads(1)


def test_a_run_of_the_first_version_is_not_complained_of(tiny: Config, tmp_path: Path) -> None:
    """Its environment.json does not say in which precision it computed."""
    short = dataclasses.replace(
        tiny, train=dataclasses.replace(tiny.train, max_steps=1, tracker="none")
    )
    train(short, tmp_path / "run", device="cpu")
    path = tmp_path / "run/environment.json"
    sessions = json.loads(path.read_text())
    del sessions[0]["precision"]
    path.write_text(json.dumps(sessions))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(
            dataclasses.replace(short, train=dataclasses.replace(short.train, max_steps=2)),
            tmp_path / "run",
            device="cpu",
        )
