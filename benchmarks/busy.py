"""A training beside a busy process: automatic threads, and threads by hand.

python -m benchmarks.busy [ROUNDS]    3 when not given; on an idle machine

Each training has a process of its own; they take turns. Prints a Markdown table.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = """--device cpu --train.max-steps 4 --train.log-every 2 --train.eval-every 4
    --train.eval-images 1 --train.moment-batches 1 --train.sample-every 1000 --train.batch-size 16
    --train.tracker none"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def seconds_per_step(*flags: str) -> float:
    """The last two steps of a training of photos; the first ones allocate memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "realnvp", "train", "photos", "--run-dir", f"{folder}/run"]
        command += [*FLAGS.split(), *flags]
        subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
        lines = map(json.loads, Path(folder, "run/metrics.jsonl").read_text().splitlines())
        return 16 / [x["images_per_second"] for x in lines if "images_per_second" in x][-1]


def main(rounds: int) -> None:
    """Measure and print."""
    cores = os.cpu_count() or 1
    by_hand = sorted({1, cores, *(n for n in (2, 4, 8, 16, 32) if n < cores)})
    variants = {"automatic": [], **{f"--threads {n}": ["--threads", str(n)] for n in by_hand}}
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            turns = [[seconds_per_step(*v) for v in variants.values()] for _ in range(rounds)]
        finally:
            busy.kill()
    print(f"{cores} cores, one busy process, photos at batch 16\n")
    print("| threads | s a step | range |\n|---|---|---|")
    for name, seconds in zip(variants, zip(*turns, strict=True), strict=True):
        range_of = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"| {name} | {statistics.median(seconds):.2f} | {range_of} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 3)
