"""realnvp evaluate: bits/dim of a split."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from realnvp.cli.inputs import load
from realnvp.cli.options import Device, Flag, Json, RunDir, Threads, Which
from realnvp.cli.output import print_json, say, to_json
from realnvp.files.atomic import write_file

Split = Literal["train", "validation", "test"]


@dataclass
class Evaluate:
    """Print the bits/dim of a run's flow on one split, with its standard error; of its own data also to RUN/evaluation.json.

    A bound on the bits that a lossless code needs for each channel of each pixel (uniform dequantisation, or the flow's own). Of
    a table: the mean log-density of a row in nats, in the units of its columns.

    Example: realnvp evaluate runs/photos --split test --noise-draws 4
    """

    run: RunDir
    split: Split = "test"
    """Which images or rows."""
    noise_draws: int = 1
    """Draws of the dequantisation noise for each image; log p is averaged over them."""
    source: Annotated[Path | None, tyro.conf.arg(name="data.source")] = None
    """Other data than the run's own: a folder, an .npy file, a table, a prepared folder; all of it where it has no splits."""
    which: Which = "best"
    views: Flag = False
    """Also print the bits/dim of the density averaged over all views that training showed: mirrored, turned, recoloured."""
    codecs: Flag = False
    """Also print what PNG and lossless WebP need for the same images."""
    seed: int = 0
    """Seed of the noise."""
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        result = self.write()
        if self.json:
            print_json(result)
        else:
            _print_evaluation(result)
        return 1 if result["nonfinite"] or result.get("views", result)["nonfinite"] else 0

    def write(self) -> dict[str, Any]:
        """The evaluation, which also goes to RUN/evaluation.json if it is of the run's own data."""
        from realnvp.evaluation.evaluate import evaluate

        flow, facts = load(self.run, self.device, threads=self.threads, which=self.which)
        began = time.monotonic()
        result = evaluate(
            flow,
            self.run,
            split=self.split,
            source=self.source,
            noise_draws=self.noise_draws,
            seed=self.seed,
            views=self.views,
            codecs=self.codecs,
        )
        result["seconds"] = round(time.monotonic() - began, 2)
        result |= {"which": self.which, "step": facts.get("step")}
        if self.source is None and Path(self.run, "metrics.jsonl").exists():
            write_file(Path(self.run, "evaluation.json"), to_json(result) + "\n")
        return result


def _print_evaluation(result: dict[str, Any]) -> None:
    from realnvp.evaluation.record import measured

    version = f" ({result['dataset_version']})" if result["dataset_version"] else ""
    where, error = f"{result['dataset']}{version}, {result['split']}", f"standard error over {result['standard_error_over']}"
    if "num_rows" in result:
        say(f"{where}: {result['num_rows']} rows")
        say(f"  {measured(result)} ({error}): the mean log-density of a row, in the units of the columns")
        if result["nonfinite"]:
            say(f"  {result['nonfinite']} rows have no finite log-density")
        return
    say(f"{where}: {result['num_images']} images, noise draws: {result['noise_draws']}")
    say(f"  {measured(result)} ({error}); an upper bound ({result['dequantisation']} dequantisation)")
    if result["nonfinite"]:
        say(f"  {result['nonfinite']} images have no finite log-density")
    if "views" in result:
        count = result["views"]["count"]
        say(f"  {measured(result['views'])} of the density averaged over {count} views of each image, as training showed them")
    for name, bits in result.get("codecs", {}).items():
        say(f"  {bits:.3f} bits/dim by lossless {name}")
    if result["paper"] is not None:
        say(f"  {result['paper']:.2f} bits/dim in the paper")
