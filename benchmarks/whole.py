"""Time and memory of the score of a large picture: python -m benchmarks.whole HEIGHT WIDTH.

Linux. The picture is scikit-image's coffee, repeated.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import realnvp
from realnvp.config import DecodeOptions
from realnvp.evaluation.score import ImageFiles, score_images
from realnvp.progress import show_progress


def main() -> None:
    """Print seconds, gibibytes at most, and bits/dim."""
    height, width = map(int, sys.argv[1:])
    flow, tile = realnvp.load_flow("photos-32"), data.coffee()
    repeats = -(-height // tile.shape[0]), -(-width // tile.shape[1]), 1
    with tempfile.TemporaryDirectory() as folder, show_progress():
        path = Path(folder, "coffee.png")
        Image.fromarray(np.tile(tile, repeats)[:height, :width]).save(path)
        images = ImageFiles(flow, [path], decode=DecodeOptions())
        began = time.monotonic()
        (score,) = score_images(flow, images)
        seconds = time.monotonic() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{height}x{width}: {seconds:.0f} s, {memory:.2f} GiB, {score.bits_per_dim:.4f} bits/dim")


if __name__ == "__main__":
    main()
