"""realnvp score: how likely each image or row is."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from realnvp.cli.inputs import load, make_way, of_table
from realnvp.cli.options import Device, Fast, Flag, Json, RunDir, Threads, Which
from realnvp.cli.output import note, print_csv, print_json, say
from realnvp.files.atomic import write_file

if TYPE_CHECKING:
    from realnvp.flows.flow import Flow


@dataclass
class Score:
    """Score image files: log-density in nats, bits/dim, and their rank, 1 = the least likely.

    Of a table its rows, with the columns path, row, log_prob, rank.

    Example: realnvp score runs/photos picture.png more-pictures/ --out scores.csv

    A table: realnvp score runs/table new.csv --out scores.csv
    """

    run: RunDir
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")]
    """Image files, or folders of them; tables."""
    out: Path | None = None
    """A CSV file to write, with the columns path, log_prob, bits_per_dim, rank; else it goes to
    stdout.
    """
    resize: Flag = False
    """Bring images of other sizes to the training's: the middle, its smallest side scaled, as
    prepare images --resize SIDE.
    """
    noise_draws: int = 1
    """Draws of the dequantisation noise for each image; log p is averaged over them."""
    which: Which = "best"
    seed: int = 0
    """Seed of the noise."""
    fast: Fast = False
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        from realnvp.config.units import unit_of

        if not self.paths:
            raise ValueError("score: name image files or folders, or tables, after the run")
        flow, _ = load(self.run, self.device, threads=self.threads, which=self.which)
        scores, facts = self._rows(flow) if of_table(flow) else self._images(flow)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(type(scores[0])._fields)
        table.writerows(scores)
        if self.out:
            write_file(self.out, text.getvalue())
        if self.json:
            print_json({"scores": [entry._asdict() for entry in scores]} | facts)
        elif self.out:
            least = min(scores, key=lambda entry: entry.rank)
            which = (
                f"{least.path}, row {least.row}: {least.log_prob:.3f} nats"
                if of_table(flow)
                else f"{least.path}, {least.bits_per_dim:.3f} bits/dim"
            )
            say(
                f"{self.out}: {len(scores)} {unit_of(flow.config).things}; "
                f"the least likely is {which}"
            )
        else:
            print_csv(text.getvalue())
        return 0

    def _images(self, flow: "Flow") -> tuple[Any, dict[str, float]]:
        """The scores of image files, and how far --fast is off."""
        from realnvp.evaluation.score import COMPARED, fast_error, files_of, score
        from realnvp.flows.fast import fast
        from realnvp.tools.progress import progress

        files = files_of(self.paths)
        make_way("--out", self.out)
        how: dict[str, Any] = {
            "noise_draws": self.noise_draws,
            "seed": self.seed,
            "resize": self.resize,
        }
        with progress("image", len(files)) as report:
            scores = score(fast(flow) if self.fast else flow, files, **how, report=report)
        if not self.fast:
            return scores, {}
        error = fast_error(flow, scores, **how)
        note(
            f"fast: off by up to {error:.5f} bits/dim "
            f"on the first {min(COMPARED, len(files))} images"
        )
        return scores, {"fast_error_bits_per_dim": error}

    def _rows(self, flow: "Flow") -> tuple[Any, dict[str, float]]:
        """The scores of a table's rows."""
        from realnvp.evaluation.score import score_rows

        of_images = {"fast": self.fast, "noise-draws": self.noise_draws != 1, "resize": self.resize}
        if given := [flag for flag, chosen in of_images.items() if chosen]:
            raise ValueError(f"--{given[0]}: is for images; {self.run} is of a table")
        make_way("--out", self.out)
        return score_rows(flow, self.paths), {}
