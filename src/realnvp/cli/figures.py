"""realnvp figures, report and table: the results of runs, for readers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from realnvp.cli import options
from realnvp.cli.evaluate import Evaluate


@dataclass
class Figures:
    """Draw the paper's figures of a trained run, and diagnostics of its density.

    Of images: samples, classes, manifold (eq 14), extrapolation, compression, latents, curves.
    Of tables: density, map, conditional, pairs, latents, curves. PNG files in RUN/figures.

    Example: realnvp figures runs/photos --only manifold --seed 1
    """

    run: options.RunDir
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Only this figure; may be repeated."""
    seed: int = 0
    """Seed of all choices and samples."""
    class_name: options.ClassName = None
    """Class of all figures but classes and curves; default: the most frequent class."""
    out: Path | None = None
    """The folder to write; default: RUN/figures."""
    arrays: options.Flag = False
    """Also write the arrays shown, as .npy."""
    which: options.Which = "best"
    json: options.Json = False
    device: options.Device = "auto"
    threads: options.Threads = None

    def __call__(self) -> int:
        from realnvp.figures import draw_figures

        flow, _ = options.load(self.run, self.device, threads=self.threads, which=self.which)
        files = draw_figures(
            flow,
            self.run,
            only=self.only,
            seed=self.seed,
            class_name=options.given_class(flow, self.class_name),
            out=self.out or options.beside(self.run) / "figures",
            arrays=self.arrays,
        )
        if self.json:
            options.print_json({"run": self.run, "files": [*map(str, files)]})
        else:
            print("\n".join(map(str, files)))
        return 0


@dataclass
class Report:
    """Write RUN/report.html: one self-contained page with results, pictures, configuration.

    Draws all figures anew, and evaluates the model where that was not done yet.

    Example: realnvp report runs/photos
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="A run directory.")]
    seed: int = 0
    """Seed of the figures."""
    json: options.Json = False
    device: options.Device = "auto"
    threads: options.Threads = None

    def __call__(self) -> int:
        from realnvp.evaluation.record import current_evaluation
        from realnvp.evaluation.report import report
        from realnvp.figures import draw_figures
        from realnvp.io.files import DamagedError
        from realnvp.io.run_dir import RunDir

        run = Path(self.run)
        config, sessions = RunDir(run).config, RunDir(run).sessions
        try:
            result = current_evaluation(run)
        except (ValueError, DamagedError):  # none, or of another model or split
            evaluation = Evaluate(
                self.run,
                codecs=getattr(config.data, "levels", None) == 256,
                device=self.device,
                threads=self.threads,
            )
            result = evaluation.evaluated()
            evaluation.save(result)
        flow, _ = options.load(self.run, self.device, threads=self.threads, which=result.which)
        files = draw_figures(flow, self.run, seed=self.seed)
        page = report(run, config, result, files, sessions, seed=self.seed)
        if self.json:
            options.print_json({"report": str(page), "pictures": [*map(str, files)]})
        else:
            print(f"{page}: open it in a browser")
        return 0


@dataclass
class Table:
    """Print the paper's Table 1 with the results of runs.

    The paper's number stands beside a run with the paper's configuration, else the fields that
    differ.

    Example: realnvp table runs/cifar10 runs/photos --markdown
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run directories, each evaluated before."""
    markdown: options.Flag = False
    """Print it in Markdown."""
    json: options.Json = False

    def __call__(self) -> int:
        from realnvp.evaluation.paper_table import COLUMNS, cells, markdown, table

        if not self.runs:
            raise ValueError("table: name run directories")
        rows = table(list(self.runs))
        if self.json:
            options.print_json({"rows": rows})
        elif self.markdown:
            print(markdown(rows))
        else:
            options.print_table(COLUMNS[:-1], [cells(row)[:-1] for row in rows])
            print("\n".join(f"{row['run']}: {row['command']}" for row in rows))
        return 0
