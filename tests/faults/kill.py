"""Killed and stopped at random moments: python -m tests.faults.kill [--times 100] [--seed 0]

A tiny training, `realnvp prepare` and `realnvp figures` are killed and started again with the same command until they end.
Then all that they wrote is what a run wrote which nobody killed, to the bit; no training has lost more than `save_every` steps.
The same with SIGTERM and Ctrl-C, after which a training has saved.
"""

import argparse
import json
import random
import signal
import tempfile
from pathlib import Path
from typing import NamedTuple

from children import Child
from subjects import SAVE_EVERY, SUBJECTS, Subject, differences, warm

from realnvp.io.files import newest_intact


class Killed(NamedTuple):
    """What came of it."""

    kills: int
    runs: int
    lost: int
    """Steps of training, at most."""
    seconds: float
    """From signal to end, at most."""


def kill(
    subject: Subject, times: int, folder: Path, choose: random.Random, signum: int = signal.SIGKILL
) -> Killed:
    """Kill the command so many times; AssertionError if it does not end as one that was left
    alone.
    """
    warm()
    log, kills, runs, lost, longest = folder / "log", 0, 0, 0, 0.0
    whole = min(
        Child([*subject.command, folder / f"whole-{i}"], log).succeed() for i in range(3)
    )  # other work may come between
    expected = subject.wrote(folder / "whole-0")
    while kills < times:
        out = folder / f"run-{runs}"
        while kills < times:
            child = Child([*subject.command, out], log)
            seconds = child.kill(choose.uniform(0, 1.2 * whole), signum)
            if seconds is None:
                break
            kills, longest, lost_now = kills + 1, max(longest, seconds), lost_steps(out)
            assert lost_now == 0 or "saved" not in log.read_text(), log.read_text()
            lost = max(lost, lost_now)
        Child([*subject.command, out], log).succeed()
        runs += 1
        assert differences(subject.wrote(out), expected) == [], out
    return Killed(kills, runs, lost, longest)


def lost_steps(run: Path) -> int:
    """How many steps a killed training had done after its last checkpoint; AssertionError if half
    of one can be seen.
    """
    files, complaints = newest_intact(run / "checkpoints", "step")
    assert complaints == []
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    done = max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)
    lost: int = done - (json.loads(files["state.json"])["step"] if files else 0)
    assert lost <= SAVE_EVERY, f"{run}: {lost} steps lost"
    return lost


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="kills of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--signals", nargs="*", default=["SIGKILL", "SIGTERM", "SIGINT"], help="only these"
    )
    context = parser.parse_args()
    print(
        "| signal | to | times | ended bit-equal | most steps lost (save_every = 3) | ends within |\n|---|---|---|---|---|---|"
    )
    cases = [(name, signal.SIGKILL) for name in SUBJECTS]
    cases += [("training", signal.SIGTERM), ("training", signal.SIGINT)]
    for name, signum in [case for case in cases if case[1].name in context.signals]:
        with tempfile.TemporaryDirectory() as place:
            killed = kill(
                SUBJECTS[name](Path(place)),
                context.times,
                Path(place),
                random.Random(context.seed),
                signum,
            )
        cells = f"{killed.runs} of {killed.runs} runs | {killed.lost if name == 'training' else '-'} | {killed.seconds:.2f} s"
        print(f"| {signum.name} | {name} | {killed.kills} | {cells} |", flush=True)
