"""The whole of realnvp in ten minutes: train on photographs, evaluate, sample, check, go to the latents and back, and report.

python examples/demo.py RUN_DIR
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import realnvp
from realnvp.data import open_splits


def command(*words: str) -> None:
    """Show a command and run it."""
    print(f"\n$ realnvp {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "realnvp", *words], check=True)


def round_trip(run: str) -> int:
    """How many of 200 test images come back exactly from encode and decode."""
    flow = realnvp.load_flow(run)
    images = torch.from_numpy(np.array(open_splits(Path(run, "data")).test[:200])).permute(0, 3, 1, 2)
    with torch.no_grad():
        back = realnvp.quantize(flow.decode(flow.encode(images + 0.5)))
    return int((back == images).flatten(1).all(1).sum())


def summary(run: str, picture: str, result: dict[str, Any], exact: int) -> str:
    """What the reader should take home."""
    codecs, error = result["codecs"], f"{result['standard_error']:.3f} (standard error over {result['standard_error_over']})"
    return f"""
{result["num_images"]} test crops, bits/dim (fewer is better)
  PNG             {codecs["png"]:.3f}
  WebP, lossless  {codecs["webp"]:.3f}
  this flow       {result["bits_per_dim"]:.3f} +- {error}
encode, decode: {exact} of 200 images come back exactly

Pictures
  {picture}
  {run}/samples/    the same latents while it learned
  {run}/figures/    manifold, extrapolation, compression, latents
  {run}/report.html all of it on one page: open it in a browser

Next
  realnvp train photos --run-dir {run} --train.max-steps 20000     go on: it is far from done
  realnvp train images --data.source YOUR-FOLDER --run-dir runs/mine
  realnvp score {run} YOUR-32x32-PICTURES... --out scores.csv
  (in {Path(sys.executable).parent}, or after: source {Path(sys.executable).parent}/activate)"""


def main() -> None:
    """Run the demo."""
    run = sys.argv[1] if len(sys.argv) > 1 else "runs/demo"
    picture = f"{run}/data-beside-samples.png"
    command("train", "photos", "--run-dir", run)
    command("evaluate", run, "--split", "test", "--noise-draws", "4", "--codecs")
    command("sample", run, "-n", "64", "--seed", "0", "--beside-data", "--out", picture)
    command("check", run)
    command("report", run)
    result = json.loads(Path(run, "evaluation.json").read_text())
    print(summary(run, picture, result, round_trip(run)))


if __name__ == "__main__":
    main()
