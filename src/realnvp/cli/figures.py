"""realnvp figures, report and table: what came out of runs, for readers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from realnvp.cli.evaluate import Evaluate
from realnvp.cli.options import (
    Device,
    Flag,
    Json,
    RunDir,
    Threads,
    Which,
    beside,
    given_class,
    load,
    note,
    print_json,
    print_table,
    say,
)


@dataclass
class Figures:
    """Draw the paper's figures from one trained run, and those that show whether its density
    can be trusted.

    samples, manifold (eq 14), extrapolation, compression, latents, curves; PNG files under
    RUN/figures.

    Example: realnvp figures runs/photos --only manifold --seed 1
    """

    run: RunDir
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Only this figure; may be repeated."""
    seed: int = 0
    """Seed of everything that is chosen or drawn at random."""
    context: str | None = None
    """Of a flow given classes: the class of all figures but `classes`; the most frequent when not
    given.
    """
    out: Path | None = None
    """Another folder than RUN/figures."""
    arrays: Flag = False
    """Also write what was drawn, as .npy."""
    which: Which = "best"
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        from realnvp.figures import drawn_figures

        flow, _ = load(self.run, self.device, threads=self.threads, which=self.which)
        drawn = drawn_figures(
            flow,
            self.run,
            only=self.only,
            seed=self.seed,
            context=given_class(flow, self.context),
            out=self.out or beside(self.run) / "figures",
            arrays=self.arrays,
        )
        if self.json:
            print_json(
                {
                    "run": self.run,
                    "seed": self.seed,
                    "which": self.which,
                    "files": [*map(str, drawn.files)],
                    "missing": drawn.missing,
                }
                | ({} if drawn.context is None else {"given": drawn.context})
            )
        else:
            say("\n".join(map(str, drawn.files)))
            if drawn.context is not None:
                note(
                    f"realnvp: of class {drawn.context} (--given NAME), but for classes and curves"
                )
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
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        from realnvp.evaluation.record import current_evaluation
        from realnvp.evaluation.report import report
        from realnvp.figures import drawn_figures
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
        flow, _ = load(self.run, self.device, threads=self.threads, which=result.which)
        drawn = drawn_figures(flow, self.run, seed=self.seed)
        page = report(
            run,
            config,
            result,
            drawn.files,
            sessions,
            seed=self.seed,
            missing=drawn.missing.items(),
            context=drawn.context,
        )
        if self.json:
            print_json(
                {
                    "report": str(page),
                    "pictures": [*map(str, drawn.files)],
                    "missing": drawn.missing,
                }
            )
        else:
            say(f"{page}: open it in a browser")
        return 0


@dataclass
class Table:
    """Print the paper's Table 1 with your runs beside it: bits/dim, error, the paper's number,
    other systems, what it took.

    The paper's number stands beside a run only if its configuration is the paper's; else the
    fields that differ are named.

    Example: realnvp table runs/cifar10 runs/photos --markdown
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run directories, each evaluated before."""
    markdown: Flag = False
    """Print it in Markdown."""
    json: Json = False

    def __call__(self) -> int:
        from realnvp.evaluation.paper_table import COLUMNS, cells, markdown, table

        if not self.runs:
            raise ValueError("table: name run directories")
        rows = table(list(self.runs))
        if self.json:
            print_json({"rows": rows})
        elif self.markdown:
            say(markdown(rows))
        else:
            print_table(COLUMNS[:-1], [cells(row)[:-1] for row in rows])
            # No terminal has room for the commands in the table.
            say("\n".join(f"{row['run']}: {row['command']}" for row in rows))
        return 0
