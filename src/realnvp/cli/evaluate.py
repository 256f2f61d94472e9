"""realnvp evaluate: bits/dim of a split."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from realnvp.cli.inputs import load
from realnvp.cli.options import Device, Flag, Json, RunDir, Threads, Which
from realnvp.cli.output import print_json, say

if TYPE_CHECKING:
    from realnvp.evaluation.record import Evaluation

Split = Literal["train", "validation", "test"]


@dataclass
class Evaluate:
    """Print the bits/dim of a run's flow on one split, with its standard error; of its own data
    also to RUN/evaluation.json.

    A bound on the bits that a lossless code needs for each channel of each pixel (uniform
    dequantisation, or the flow's own). Of a table: the mean log-density of a row in nats, in
    the units of its columns.

    Example: realnvp evaluate runs/photos --split test --noise-draws 4
    """

    run: RunDir
    split: Split = "test"
    """Which images or rows."""
    noise_draws: int = 1
    """Draws of the dequantisation noise for each image; log p is averaged over them."""
    source: Annotated[Path | None, tyro.conf.arg(name="data.source")] = None
    """Other data than the run's own: a folder, an .npy file, a table, a prepared folder; all of
    it where it has no splits.
    """
    which: Which = "best"
    views: Flag = False
    """Also print the bits/dim of the density averaged over all views that training showed:
    mirrored, turned, recoloured.
    """
    codecs: Flag = False
    """Also print what PNG and lossless WebP need for the same images."""
    seed: int = 0
    """Seed of the noise."""
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        result = self.evaluated()
        if self.json:
            print_json(result.as_json())
        else:
            say("\n".join(result.lines()))
        return 0 if result.finite else 1

    def evaluated(self) -> "Evaluation":
        """The evaluation; of the run's own data it is also saved."""
        from realnvp.evaluation.evaluate import evaluate

        flow, facts = load(self.run, self.device, threads=self.threads, which=self.which)
        result = evaluate(
            flow,
            self.run,
            split=self.split,
            source=self.source,
            noise_draws=self.noise_draws,
            seed=self.seed,
            views=self.views,
            codecs=self.codecs,
            which=self.which,
            step=facts.get("step"),
        )
        if self.source is None and Path(self.run, "metrics.jsonl").exists():
            result.save(Path(self.run))
        return result
