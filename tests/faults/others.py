"""One of two processes dies or hangs: python -m tests.faults.others

The other one ends with a clear error: at once where it died, after train.timeout where it hangs.
"""

import dataclasses
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from children import Child
from subjects import TINY

from realnvp.config import to_json
from realnvp.training.loop import train

TIMEOUT = 5.0


def joined(
    command: Sequence[str | Path], folder: Path, first: Callable[[int], object] = lambda rank: None
) -> list[Child]:
    """Two processes of one training; first(rank) prepares a fault in them."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    # One thread, as torchrun sets it: Accelerate would take one for each core, and after a fork
    # OpenMP may wait for ever.
    both = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }

    def begin(rank: int) -> None:
        os.environ.update(both | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        first(rank)

    return [Child(command, folder / f"log-{rank}", partial(begin, rank)) for rank in (0, 1)]


def pair(folder: Path) -> list[Child]:
    """Two processes of one training that does not end soon, at its third step or later.

    The first step is taken by this process: on a slow machine neither then waits long for what the other loads or prepares.
    """
    begun, endless = (
        dataclasses.replace(TINY.train, max_steps=steps, timeout=TIMEOUT) for steps in (1, 100_000)
    )
    train(dataclasses.replace(TINY, train=begun), folder / "run", device="cpu")
    (folder / "config.json").write_text(to_json(dataclasses.replace(TINY, train=endless)))
    two = joined(
        (
            "train",
            "--config",
            folder / "config.json",
            "--device",
            "cpu",
            "--run-dir",
            folder / "run",
        ),
        folder,
    )
    metrics = folder / "run" / "metrics.jsonl"
    while '"step": 3' not in metrics.read_text():
        assert [child.wait(0) for child in two] == [None, None], [
            child.log.read_text() for child in two
        ]
        time.sleep(0.01)
    return two


def survivor(folder: Path, *, victim: int, fault: signal.Signals) -> tuple[str, float, float]:
    """What the other process says, and how long after the fault it said so and had ended.

    AssertionError if it does not exit with 1.
    """
    two = pair(folder)
    try:
        os.kill(two[victim].pid, fault)
        began, other = time.monotonic(), two[1 - victim]
        while "realnvp: error: " not in other.log.read_text() and other.wait(0) is None:
            assert time.monotonic() - began < 10 * TIMEOUT, "it waits and waits"
            time.sleep(0.01)
        said = time.monotonic() - began
        assert other.wait() == 1, other.log.read_text()
        return other.log.read_text(), said, time.monotonic() - began
    finally:
        for child in two:
            child.end()


if __name__ == "__main__":
    print(
        f"| fault | process | said after | ended after | (train.timeout = {TIMEOUT:g} s)\n|---|---|---|---|---|"
    )
    for fault in (signal.SIGKILL, signal.SIGSTOP):
        for victim in (0, 1):
            with tempfile.TemporaryDirectory() as place:
                words, said, ended = survivor(Path(place), victim=victim, fault=fault)
            print(
                f"| {fault.name} | {victim} | {said:.2f} s | {ended:.2f} s | {words.splitlines()[-1]} |",
                flush=True,
            )
