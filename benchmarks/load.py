"""Many images: time, peak memory, equality with the small case; each command in a fresh process.

python -m benchmarks.load [LARGE] [FILES]    100,000 images and 20,000 files when not given
"""

import csv
import json
import multiprocessing
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SMALL = 1_000
TOLERANCE = 1e-6  # bits/dim: what the size of a batch may change


class Ran(NamedTuple):
    """A command that has ended."""

    code: int
    seconds: float
    megabytes: float
    """Its peak memory."""
    said: str


def run(*argv: str | int | Path) -> Ran:
    """One realnvp command in a fresh process.

    This process stays small: its own peak counts as the first of the other's.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "realnvp", *map(str, argv)], stdout=words, stderr=words
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        words.seek(0)
        return Ran(
            process.returncode, time.monotonic() - began, usage.ru_maxrss / 1024, words.read()
        )


def trained(folder: Path) -> Path:
    """A small digits flow."""
    every = ("max-steps", "eval-every", "sample-every", "save-every")
    flags = [word for name in every for word in (f"--train.{name}", "20")]
    flags += ["--model.width", "8", "--model.num-blocks", "1", "--train.tracker", "none"]
    run("train", "digits", "--run-dir", folder, *flags)
    return folder


def images(count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Digits-size images, (N, 8, 8), of which the first are the same whatever N."""
    return np.random.default_rng(0).integers(17, size=(count, 8, 8)).astype(np.uint8)


def pictures(folder: Path, count: int) -> Path:
    """A folder with as many PNG files."""
    folder.mkdir()
    for i, pixels in enumerate(images(count)):
        Image.fromarray(pixels).save(folder / f"{i:06}.png")
    return folder


def too_large(path: Path, side: int) -> Path:
    """A true PNG of side x side black pixels, a thousandth of their bytes, written row by row."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))]
    squeeze, rows = zlib.compressobj(9), bytearray()
    for _ in range(side):
        rows += squeeze.compress(bytes(side + 1))
    chunks += [(b"IDAT", bytes(rows + squeeze.flush())), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


def in_pieces(run_dir: Path, count: int) -> tuple[float, float]:
    """Bits/dim of the first thousand and of all images, computed in Python a thousand at a time."""
    import torch

    from realnvp import load_flow
    from realnvp.config.units import in_bits_per_dim
    from realnvp.evaluation.likelihood import log_probs

    flow, pixels = load_flow(run_dir), images(count)[:, None]
    pieces = [range(start, min(start + SMALL, count)) for start in range(0, count, SMALL)]
    nats = torch.cat(
        [
            log_probs(flow, pixels[each.start : each.stop], indices=each, batch_size=100)
            for each in pieces
        ]
    )
    bits = in_bits_per_dim(nats, (1, 8, 8))
    return bits[:SMALL].mean().item(), bits.mean().item()


def scores_in(table: Path) -> list[str]:
    """The column of a table of scores."""
    with table.open() as file:
        return [row["log_prob"] for row in csv.DictReader(file)]


def row(what: str, small: Ran, count: int, large: Ran, equal: bool) -> None:
    """Print a case."""
    growth = (large.megabytes - small.megabytes) / (count - SMALL) * 1024
    cells = f"{count:,} | {large.seconds:.0f} s | {small.megabytes:.0f} | {large.megabytes:.0f}"
    print(f"| {what} | {cells} | {growth:.2f} | {'equal' if equal else 'DIFFERENT'} |", flush=True)
    assert small.code == large.code == 0, large.said  # 1 if a density or a sample is not finite
    assert equal, what


def in_a_table(here: Path, many: int, files: int) -> None:
    """Print what many images cost, of SMALL and of so many."""
    flow, few_and_many, few_and_files = here / "run", (SMALL, many), (SMALL, files)
    for n in few_and_many:
        np.save(here / f"{n}.npy", images(n))
    for n in few_and_files:
        pictures(here / f"p{n}", n)

    ran = [
        run("evaluate", flow, "--json", "--data.source", here / f"{n}.npy") for n in few_and_many
    ]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        expected = pool.apply(in_pieces, (flow, many))
    found = [json.loads(each.said[each.said.index("{") :])["bits_per_dim"] for each in ran]
    equal = np.allclose(found, expected, rtol=0, atol=TOLERANCE)
    row("evaluate, one .npy", ran[0], many, ran[1], equal)

    ran = [run("sample", flow, "-n", n, "--out", here / f"s{n}.npy") for n in few_and_many]
    first, samples = (np.load(here / f"s{n}.npy", mmap_mode="r") for n in few_and_many)
    equal = np.array_equal(first, samples[:SMALL])
    row("sample, .npy, none not finite", ran[0], many, ran[1], equal)

    ran = [run("score", flow, here / f"p{n}", "--out", here / f"{n}.csv") for n in few_and_files]
    first_scores, scores = (scores_in(here / f"{n}.csv") for n in few_and_files)
    row("score, PNG files", ran[0], files, ran[1], first_scores == scores[:SMALL])


def main(many: int, files: int) -> None:
    """Print all cases, and what is refused."""
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        trained(here / "run")
        head = f"| command | images | time | peak MB of {SMALL:,} | peak MB | KB an image"
        print(f"{head} | first {SMALL:,} |\n|---|---|---|---|---|---|---|")
        in_a_table(here, many, files)
        huge = run("score", here / "run", too_large(here / "large.png", 40_000))
        grid = run("sample", here / "run", "-n", 50_000, "--out", here / "s.png")
        cases = {"a picture of 40,000 x 40,000, 1.6 GB": huge, "50,000 samples as one PNG": grid}
        for what, refused in cases.items():
            cost = f"{refused.seconds:.0f} s, peak {refused.megabytes:.0f} MB"
            print(f"\n{what}: exit code {refused.code}, {cost}: {refused.said.strip()}")
            assert refused.code == 2


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], *("100000", "20000")[len(sys.argv) - 1 :]]))
