"""Many images: time, and peak memory beside that of few; each command in a fresh process.

python -m benchmarks.load [IMAGES] [FILES]    100,000 images and 20,000 files when not given
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

FEW = 1_000
FLAGS = """--train.max-steps 20 --train.eval-every 20 --train.sample-every 20 --train.save-every 20
    --model.width 8 --model.num-blocks 1 --train.tracker none"""


class Finished(NamedTuple):
    """What a command took."""

    seconds: float
    megabytes: float
    """Peak memory."""


def run(*argv: str | int | Path) -> Finished:
    """One realnvp command in a fresh process.

    This process stays small: its own peak counts as the first of the other's.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, "-m", "realnvp", *map(str, argv)]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        assert process.returncode == 0, output.read()
    return Finished(time.monotonic() - began, usage.ru_maxrss / 1024)


def main(many: int, files: int) -> None:
    """Print a row for each command."""
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        flow = here / "run"
        run("train", "digits", "--run-dir", flow, *FLAGS.split())
        # Digits-size images; the first ones are the same whatever their number.
        pixels = np.random.default_rng(0).integers(17, size=(max(many, files), 8, 8), dtype="u1")
        for n in {FEW, many}:
            np.save(here / f"{n}.npy", pixels[:n])
        for n in {FEW, files}:
            (here / f"{n}").mkdir()
            for i, image in enumerate(pixels[:n]):
                Image.fromarray(image).save(here / f"{n}" / f"{i:06}.png")
        print(f"| command | images | time | peak MB of {FEW:,} | peak MB |\n|---|---|---|---|---|")
        for command, count, flags in (
            ("evaluate", many, lambda n: ["--data.source", here / f"{n}.npy"]),
            ("sample", many, lambda n: ["-n", n, "--out", here / f"samples-{n}.npy"]),
            ("score", files, lambda n: [here / f"{n}", "--out", here / f"{n}.csv"]),
        ):
            few, large = (run(command, flow, *flags(n)) for n in (FEW, count))
            cells = f"{large.seconds:.0f} s | {few.megabytes:.0f} | {large.megabytes:.0f}"
            print(f"| {command} | {count:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], *("100000", "20000")[len(sys.argv) - 1 :]]))
