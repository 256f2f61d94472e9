"""The whole of realnvp in eight minutes: train two flows, evaluate, sample, check, report.

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
from realnvp.data.prepared import open_splits
from realnvp.figures import side_by_side

MINUTES = "3"  # of training, each


def command(*words: str) -> None:
    """Show a command and run it."""
    print(f"\n$ realnvp {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "realnvp", *words], check=True)


def trained(preset: str, run: str, *more: str) -> dict[str, Any]:
    """Train for `MINUTES`; returns the evaluation. 64 samples are in RUN/samples.npy."""
    command("train", preset, "--run-dir", run, "--train.max-minutes", MINUTES)
    command("evaluate", run, "--split", "test", *more)
    command("sample", run, "-n", "64", "--seed", "0", "--out", f"{run}/samples.npy")
    result: dict[str, Any] = json.loads(Path(run, "evaluation.json").read_text())
    return result


def draw(run: str, paper_run: str) -> str:
    """Test images, samples of the one and of the other flow, side by side."""
    picture = f"{run}/data-beside-samples.png"
    panels = {"photographs (test)": np.array(open_splits(Path(run, "data")).test[:64])}
    panels |= {"samples, the modern preset": np.load(f"{run}/samples.npy")}
    panels |= {"samples, the paper's recipe": np.load(f"{paper_run}/samples.npy")}
    side_by_side(Path(picture), panels, levels=256)
    return picture


def round_trip(run: str) -> int:
    """How many of 200 test images come back exactly from encode and decode."""
    flow = realnvp.load_flow(run)
    images = torch.from_numpy(np.array(open_splits(Path(run, "data")).test[:200])).permute(
        0, 3, 1, 2
    )
    with torch.no_grad():
        back = realnvp.quantize(flow.decode(flow.encode(images + 0.5)))
    return int((back == images).flatten(1).all(1).sum())


def bits(result: dict[str, Any]) -> str:
    """Bits/dim with the error."""
    return f"{result['bits_per_dim']:.3f} +- {result['standard_error']:.3f}"


def summary(
    run: str, picture: str, modern: dict[str, Any], paper: dict[str, Any], exact: int
) -> str:
    """What the reader should take home."""
    crops, over = modern["num_images"], modern["standard_error_over"]
    return f"""
{crops} test crops, bits/dim (fewer is better; standard error over {over})
  PNG                                        {modern["codecs"]["png"]:.3f}
  WebP, lossless                             {modern["codecs"]["webp"]:.3f}
  the paper's recipe (photos), {MINUTES} minutes     {bits(paper)}
  the modern preset (photos-modern), as long {bits(modern)}
encode, decode: {exact} of 200 images come back exactly

Pictures
  {picture}
  {run}/samples/    the same latents while it learned
  {run}/figures/    manifold, extrapolation, compression, latents
  {run}/report.html all of it on one page: open it in a browser

Next
  realnvp train photos-modern --run-dir runs/longer --train.max-minutes 60
  realnvp train images-modern --data.source YOUR-FOLDER --run-dir runs/mine
  realnvp score {run} YOUR-32x32-PICTURES... --out scores.csv
  (in {Path(sys.executable).parent}, or after: source {Path(sys.executable).parent}/activate)"""


def main() -> None:
    """Run the demo."""
    run = sys.argv[1] if len(sys.argv) > 1 else "runs/demo"
    paper_run = f"{run}-paper"
    modern = trained("photos-modern", run, "--codecs")
    paper = trained("photos", paper_run)
    command("check", run)
    command("report", run)
    print(summary(run, draw(run, paper_run), modern, paper, round_trip(run)))


if __name__ == "__main__":
    main()
