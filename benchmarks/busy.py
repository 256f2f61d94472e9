"""A training beside a busy process: with the threads that `realnvp train` takes, and by hand.

python -m benchmarks.busy [ROUNDS] [BUSY]    3 rounds, one busy process; on an idle machine

Each training has a process of its own; they take turns. Prints a Markdown table, and how far the
rule is from the best number of threads by hand.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WITHIN = 1.3  # of the speed of the best number of threads by hand
FLAGS = """--device cpu --train.max-steps 4 --train.log-every 2 --train.eval-every 4
    --train.eval-images 1 --train.moment-batches 1 --train.sample-every 1000 --train.batch-size 16
    --train.tracker none"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def seconds_of_a_step(place: Path, *flags: str) -> float:
    """The last two steps of a training of photos; in the first ones memory is found."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        realnvp = [sys.executable, "-m", "realnvp", "train", "photos", "--run-dir", f"{folder}/run"]
        command = [*realnvp, *FLAGS.split(), *flags]
        subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
        lines = Path(folder, "run/metrics.jsonl").read_text().splitlines()
        speeds = [json.loads(line).get("images_per_second") for line in lines]
        return 16 / [speed for speed in speeds if speed is not None][-1]


def main(rounds: int, count: int) -> int:
    """The table; 1 if the rule is further from the best than it may be."""
    linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    by_hand = sorted({1, cores, *(n for n in (2, 4, 8, 16, 32) if n < cores)})
    ways = {"the rule": [], **{f"--threads {n}": ["--threads", str(n)] for n in by_hand}}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        with tempfile.TemporaryDirectory() as place:
            for _ in range(rounds):
                for way, flags in ways.items():
                    taken[way].append(seconds_of_a_step(Path(place), *flags))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    medians = {way: statistics.median(seconds) for way, seconds in taken.items()}
    print(f"{cores} cores, {count} other busy process(es), photos at batch 16\n")
    print("| threads | s a step | range |\n|---|---|---|")
    for way, seconds in taken.items():
        print(f"| {way} | {medians[way]:.2f} | {min(seconds):.2f} to {max(seconds):.2f} |")
    ratio = medians.pop("the rule") / min(medians.values())
    print(f"\nthe rule takes {ratio:.2f} times as long as the best by hand (at most {WITHIN})")
    return int(ratio > WITHIN)


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in [*sys.argv[1:], *("3", "1")[len(sys.argv) - 1 :]])))
