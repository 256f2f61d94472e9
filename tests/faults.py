"""Kills, full disks, flipped bits and lost processes: python -m tests.faults [--times 100]

Whatever happens to a tiny training, the same command ends with what an undisturbed training writes,
to the bit. tests/test_faults.py has shorter forms.
"""

import argparse
import errno
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from realnvp.cli.main import run
from realnvp.config.fields import Config, ModelConfig
from realnvp.config.json import to_json
from realnvp.config.presets import PRESETS
from realnvp.io.files import DamagedError, read_safetensors
from realnvp.io.pretrained import checkpoints_in, newest_checkpoint
from realnvp.training.loop import train

torch.set_num_threads(1)
SAVE_EVERY = 3
FEW: dict[str, Any] = {"max_steps": 14, "batch_size": 8, "eval_images": 20, "moment_batches": 20}
EVERY = {"log_every": 1, "eval_every": 4, "sample_every": 6, "save_every": SAVE_EVERY}
TINY: Config = replace(
    PRESETS["digits"],
    model=ModelConfig(num_scales=1, width=4, num_blocks=0),
    train=replace(PRESETS["digits"].train, **FEW, **EVERY, tracker="none"),
)
LIMIT = 300.0  # seconds that a command may take


class Child:
    """A training in a process of its own, forked: torch is loaded already."""

    def __init__(
        self,
        out: Path,
        first: Callable[[], object] = lambda: None,
        *,
        config: Config = TINY,
        name: str = "child",
    ) -> None:
        """first: called in the child before the command, to prepare its fault."""
        self.log, self.config = out.parent / f"{name}.log", out.parent / f"{name}.json"
        self.config.write_text(to_json(config))
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(self._command(out, first))

    def _command(self, out: Path, first: Callable[[], object]) -> int:
        sys.stdout = sys.stderr = self.log.open("w", buffering=1)
        os.dup2(sys.stderr.fileno(), 2)
        argv = ["train", "--config", str(self.config), "--run-dir", str(out), "--device", "cpu"]
        try:
            first()
            return run(argv)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            return 70

    def wait(self, seconds: float = LIMIT) -> int | None:
        """The exit code, minus the signal that ended it; None if it is still at work."""
        until = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > until:
                return None
            time.sleep(0.002)

    @property
    def output(self) -> str:
        return self.log.read_text()


def succeed(out: Path) -> None:
    child = Child(out)
    assert child.wait() == 0, child.output


def content(run_dir: Path) -> dict[str, object]:
    """All that two trainings must have in common: models, last checkpoint, samples, curves."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    curves = [
        {name: value for name, value in json.loads(line).items() if "second" not in name}
        for line in lines
    ]
    # A killed process may leave a temporary, .NAME.tmp.
    files = [path for kind in ("model", "samples") for path in (run_dir / kind).glob("[!.]*")]
    tensors, _ = read_safetensors(checkpoints_in(run_dir)[-1])
    return {
        "curves": curves,
        **{name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
        **{path.name: path.read_bytes() for path in files},
    }


def kill(folder: Path, times: int, choose: random.Random, signum: int = signal.SIGKILL) -> int:
    """Kill a training so often, at random moments; returns the most steps that a kill cost."""
    began = time.monotonic()
    succeed(folder / "whole")
    seconds, lost, kills, runs = time.monotonic() - began, 0, 0, 0
    while kills < times:
        out, ended = folder / f"run-{runs}", False
        while kills < times and not ended:
            child = Child(out)
            ended = child.wait(choose.uniform(0, 1.2 * seconds)) is not None
            if not ended:
                os.kill(child.pid, signum)
                assert child.wait() in (0, -signum, 128 + signum), child.output
                kills, lost = kills + 1, max(lost, _lost_steps(out))
        succeed(out)
        assert content(out) == content(folder / "whole"), out
        runs += 1
    return lost


def _lost_steps(run_dir: Path) -> int:
    """The steps of a killed training after its last checkpoint, which must be intact."""
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    done = max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)
    newest = newest_checkpoint(run_dir)
    return done - (newest[1]["state"]["step"] if newest else 0)


def flip(run_dir: Path, times: int, choose: random.Random) -> None:
    """Change a bit, or cut the end, of checkpoints and models: each change is found."""
    files = [*checkpoints_in(run_dir), *(run_dir / "model").iterdir()]
    for _ in range(times):
        path = choose.choice(files)
        whole = path.read_bytes()
        at = choose.randrange(len(whole))
        flipped = bytes([whole[at] ^ 1 << choose.randrange(8)])
        cut = choose.random() < 0.3
        path.write_bytes(whole[:at] if cut else whole[:at] + flipped + whole[at + 1 :])
        try:
            read_safetensors(path)
        except DamagedError as error:
            if str(path) not in str(error):
                raise AssertionError(f"{path} is not named: {error}") from None
        else:
            raise AssertionError(f"{path}: byte {at} is changed")
        finally:
            path.write_bytes(whole)


def fill_disk(folder: Path, at: Callable[[int], list[int]]) -> int:
    """Run trainings whose n-th write to the disk fails; at: chooses n, of the number of writes."""
    counted = folder / "writes"
    whole = Child(folder / "whole", lambda: _each_fsync(lambda n: counted.write_text(str(n))))
    assert whole.wait() == 0, whole.output
    chosen = at(int(counted.read_text()))
    for number in chosen:
        out = folder / f"full-{number}"
        child = Child(out, lambda number=number: _each_fsync(lambda n: _fail(n == number)))
        assert child.wait() == 2, child.output
        assert str(out) in child.output
        assert "No space left" in child.output
        assert not list(out.rglob(".*.tmp"))
        succeed(out)
        assert content(out) == content(folder / "whole"), out
    return len(chosen)


def _each_fsync(call: Callable[[int], object]) -> None:
    """Call call(n) at the n-th fsync of this process."""
    fsync, count = os.fsync, 0

    def counting(descriptor: int) -> None:
        nonlocal count
        count += 1
        call(count)
        fsync(descriptor)

    os.fsync = counting


def _fail(now: bool) -> None:
    if now:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def lose(folder: Path, victim: int, signum: int) -> str:
    """Kill or stop one of two processes in a training; returns the output of the other."""
    config = replace(TINY, train=replace(TINY.train, timeout=5.0))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def join(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        import realnvp.training.loop as loop

        step = loop.train_step

        def faulty(run, x):  # type: ignore[no-untyped-def]
            if rank == victim and run.state.step == 5:
                os.kill(os.getpid(), signum)
            return step(run, x)

        loop.train_step = faulty

    children = [
        Child(folder / "two", lambda rank=rank: join(rank), config=config, name=f"rank-{rank}")
        for rank in (0, 1)
    ]
    other = children[1 - victim]
    try:
        assert other.wait() == 1, other.output
        return other.output
    finally:
        os.kill(children[victim].pid, signal.SIGKILL)
        children[victim].wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="kills; ten times as many flips")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    choose = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(TINY, folder / "run", device="cpu")
        flip(folder / "run", 10 * chosen.times, choose)
        print(f"{10 * chosen.times} of {10 * chosen.times} flips and cuts found", flush=True)
        for signum in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            (folder / signum.name).mkdir()
            lost = kill(folder / signum.name, chosen.times, choose, signum)
            print(f"{chosen.times} {signum.name}: bit-equal; at most {lost} steps lost", flush=True)
        (folder / "full").mkdir()
        print(
            f"full disk at each of {fill_disk(folder / 'full', lambda n: [*range(1, n + 1)])} writes"
        )


if __name__ == "__main__":
    main()
