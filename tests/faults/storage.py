"""Bad disks: python -m tests.faults.storage [--times 1000] [--seed 0]

Single bits flipped and files cut short in checkpoints, models and prepared data; a disk that is full at each write in turn,
one that is really full (a small tmpfs, where this may mount one), one that is read-only, one that is slow; a run directory that
vanishes.
"""

import argparse
import errno
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from children import Child
from subjects import SUBJECTS, TINY, Subject, differences, training, warm

import realnvp.training.loop
from realnvp.config import read_config
from realnvp.data import open_splits
from realnvp.data.dataset import SPLITS
from realnvp.flows.build import build
from realnvp.io.checkpoint import load_checkpoint
from realnvp.io.files import DamagedError, numbered
from realnvp.io.pretrained import load_flow
from realnvp.training.run import Run


def flips(
    run: Path, times: int, choose: random.Random, *, files: Sequence[Path] = ()
) -> Counter[str]:
    """How many changes were told in which files of a finished run; AssertionError if one is not,
    or another file is named.
    """
    told, files = Counter[str](), files or _protected(run)
    for _ in range(times):
        path = choose.choice(files)
        content = path.read_bytes()
        path.write_bytes(changed(content, choose))
        where = path.relative_to(run)
        try:
            _expect(run, path)
        finally:
            path.write_bytes(content)
        told[where.parts[0]] += 1
    return told


def changed(content: bytes, choose: random.Random) -> bytes:
    """One bit flipped, or the end missing."""
    at = choose.randrange(len(content))
    if choose.random() < 0.3:
        return content[:at]
    return content[:at] + bytes([content[at] ^ 1 << choose.randrange(8)]) + content[at + 1 :]


def _protected(run: Path) -> list[Path]:
    """The files of the newest checkpoint, of the best model, and the data."""
    folders = [
        numbered(run / "checkpoints", "step")[-1],
        numbered(run / "model", "best")[-1],
        run / "data",
    ]
    return sorted(path for folder in folders for path in folder.iterdir())


def _expect(run: Path, path: Path) -> None:
    """The change of the file is told by its name; of a checkpoint, the previous one is used."""
    kind = path.relative_to(run).parts[0]
    if kind == "checkpoints":
        flow = build(read_config(run / "config.json"))
        optimizers = [torch.optim.Adam(flow.parameters())]
        state, complaints = load_checkpoint(run, flow=flow, optimizers=optimizers, averages={})
        previous = numbered(run / "checkpoints", "step")[0]
        assert f"step-{state.step:09d}" == previous.name, path
        words = "; ".join(complaints)
    else:
        try:
            load_flow(run) if kind == "model" else open_splits(run / "data", verify=SPLITS)
        except (DamagedError, ValueError) as error:
            words = str(error)
        else:
            raise AssertionError(f"{path}: its change was not told")
    # A changed manifest no longer matches a file that is intact, and dataset.json says what the
    # arrays should be.
    assert str(path.parent) in words, (path, words)


def full(subject: Subject, folder: Path, *, at: Callable[[int], list[int]]) -> int:
    """How many writes of a command met a full disk, each in a run of its own; which of them, `at` chooses by their number.

    AssertionError if one is not told, or spoils what the same command writes when there is room again.
    """
    warm()
    log, counted = folder / "log", folder / "writes"
    Child(
        [*subject.command, folder / "whole"],
        log,
        lambda: _fsync(lambda n: counted.write_text(str(n))),
    ).succeed()
    expected, chosen = subject.wrote(folder / "whole"), at(int(counted.read_text()))
    for number in chosen:
        out = folder / f"full-{number}"
        Child(
            [*subject.command, out], log, lambda number=number: _fsync(_no_space_at(number))
        ).complain(str(out), "No space left on device", "errno 28")
        Child([*subject.command, out], log).succeed()
        assert (wrong := differences(subject.wrote(out), expected)) == [], (out, wrong)
    return len(chosen)


def _fsync(before: Callable[[int], object]) -> None:
    """Call before(n) at the n-th flush of a file to the disk; all that we write whole is flushed."""
    fsync, count = os.fsync, 0

    def counting(descriptor: int) -> None:
        nonlocal count
        count += 1
        before(count)
        fsync(descriptor)

    os.fsync = counting


def _no_space_at(number: int) -> Callable[[int], None]:
    def fail(n: int) -> None:
        if n == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fail


def slow(subject: Subject, folder: Path, seconds: float) -> None:
    """AssertionError if a disk that takes its time changes what is written."""
    log = folder / "log"
    Child([*subject.command, folder / "fast"], log).succeed()
    Child(
        [*subject.command, folder / "slow"], log, lambda: _fsync(lambda n: time.sleep(seconds))
    ).succeed()
    assert differences(subject.wrote(folder / "slow"), subject.wrote(folder / "fast")) == []


def vanishing(subject: Subject, folder: Path) -> str:
    """What a training says whose run directory is deleted while it runs."""
    step = realnvp.training.loop.train_step

    def deleting(run: Run, *rest: object, **more: object) -> object:
        if run.state.step == 7:
            shutil.rmtree(run.files.path)
        return step(run, *rest, **more)  # type: ignore[arg-type]

    def patch() -> None:
        realnvp.training.loop.train_step = deleting  # type: ignore[assignment]

    return Child([*subject.command, folder / "gone"], folder / "log", patch).complain(
        str(folder / "gone"), "errno 2"
    )


@contextmanager
def tmpfs(place: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A file system of its own of that size at a place, and a function that mounts it anew with
    other options.
    """
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(place), "-o"]
    subprocess.run([*mount, f"size={kilobytes}k"], check=True, capture_output=True)
    try:
        yield (
            lambda options: (
                subprocess.run([*mount, f"remount,{options}"], check=True, capture_output=True)
                and None
            )
        )
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def really_full(subject: Subject, folder: Path) -> tuple[int, int]:
    """At how many sizes of a small disk the command was refused, and at how many it ended; it then
    ends on a larger one.
    """
    log, whole = folder / "log", folder / "whole-disk"
    Child([*subject.command, whole], log).succeed()
    expected, needed = (
        subject.wrote(whole),
        sum(path.stat().st_size for path in whole.rglob("*")) // 1024,
    )
    refused, sizes = 0, range(4, 2 * needed, max(4, needed // 12))
    for size in sizes:
        disk = folder / f"disk-{size}"
        with tmpfs(disk, size) as remount:
            child = Child([*subject.command, disk / "out"], log)
            if child.wait() != 0:
                child.complain(str(disk), "No space left on device", "errno 28")
                refused += 1
                remount("size=64m")
                Child([*subject.command, disk / "out"], log).succeed()
            assert differences(subject.wrote(disk / "out"), expected) == [], size
    return refused, len(sizes) - refused


def read_only(subject: Subject, folder: Path) -> str:
    """What a command says where it may not write; what was there is unchanged."""
    disk, log = folder / "disk", folder / "log"
    with tmpfs(disk, 65536) as remount:
        Child([*subject.command, disk / "out"], log).succeed()
        before = subject.wrote(disk / "out")
        remount("ro")
        said = Child([*subject.command, disk / "new"], log).complain(
            str(disk / "new"), "Read-only file system", "errno 30"
        )
        assert differences(subject.wrote(disk / "out"), before) == []
    return said


def _print_all(times: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        realnvp.training.loop.train(TINY, place, device="cpu")
        told = flips(Path(place), times, random.Random(seed))
    print(
        f"flips and truncations told: {sum(told.values())} of {times} ({dict(sorted(told.items()))})",
        flush=True,
    )
    for name, make in SUBJECTS.items():
        with tempfile.TemporaryDirectory() as place:
            subject = make(Path(place))
            writes = full(subject, Path(place), at=lambda n: [*range(1, n + 1)])
            print(
                f"{name}: a full disk at each of {writes} writes: told, then ended equal",
                flush=True,
            )
            slow(subject, Path(place), 0.05)
            print(f"{name}: a disk of 50 ms a write: equal", flush=True)
            if os.geteuid() == 0:
                refused, ended = really_full(subject, Path(place))
                print(
                    f"{name}: on {refused} disks too small told, then ended; on {ended} ended",
                    flush=True,
                )
                print(f"{name}: {read_only(subject, Path(place))}", flush=True)
            else:
                print(
                    f"{name}: a full tmpfs and a read-only one NOT TRIED: only root may mount",
                    flush=True,
                )
    with tempfile.TemporaryDirectory() as place:
        print(f"training: {vanishing(training(Path(place)), Path(place))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000, help="flips and truncations")
    parser.add_argument("--seed", type=int, default=0)
    context = parser.parse_args()
    _print_all(context.times, context.seed)
