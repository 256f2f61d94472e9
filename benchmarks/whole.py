"""Time and memory of a large picture scored whole: python benchmarks/whole.py HEIGHT WIDTH.

Linux. The picture is scikit-image's coffee, side by side.
"""

import math
import resource
import sys
import time

import numpy as np
from skimage import data

import realnvp
from realnvp.evaluation.score import picture_map
from realnvp.progress import progress


def main() -> None:
    """Print seconds, gibibytes at most, and bits/dim."""
    height, width = map(int, sys.argv[1:])
    flow, tile = realnvp.load_flow("photos-32"), data.coffee()
    repeats = -(-height // tile.shape[0]), -(-width // tile.shape[1]), 1
    picture = np.tile(tile, repeats)[:height, :width]
    began = time.monotonic()
    with progress("strip", 1) as report:
        nats = picture_map(flow, picture, report=lambda done, total: report(done, total=total))
    seconds = time.monotonic() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    bits = -nats.sum().item() / math.log(2) / picture.size
    print(f"{height}x{width}: {seconds:.0f} s, {memory:.2f} GiB at most, {bits:.4f} bits/dim")


if __name__ == "__main__":
    main()
