"""realnvp sample, figures, report, table, package and export: outputs of a trained flow."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from realnvp.cli import options
from realnvp.cli.evaluate import Evaluate

if TYPE_CHECKING:
    from realnvp.flows.flow import Flow

Call = Literal[
    "log_prob", "pixel_log_prob", "encode", "decode", "mixture_log_prob", "class_log_probs"
]


@dataclass(kw_only=True)
class Sample(options.FlowCommand):
    """Draw samples: images to a PNG or .npy (N, H, W, C), rows of a table to a .csv or .npy.

    Example: realnvp sample runs/photos -n 64 --seed 0 --temperature 0.8 --out samples.png
    """

    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """Number of samples; with --context, for each row of that table."""
    seed: int = 0
    """Seed of the latents; sample i does not depend on n."""
    temperature: float = 1.0
    """Standard deviation of the latents; 1: exact samples of the model."""
    out: Path | None = None
    """The file to write, and its folder; default: samples.png or samples.csv beside the model."""
    class_name: options.ClassName = None
    """Class of all samples; default: classes at their frequencies in the training data."""
    context: Path | None = None
    """A table with the context columns of a conditional flow of a table."""
    fast: options.Fast = False

    def __call__(self) -> int:
        from realnvp.flows.context import Classes

        if self.n < 1:
            raise ValueError(f"-n: must be at least 1, got {self.n}")
        flow, _ = self.load(fast=self.fast)
        table = options.of_table(flow)
        suffixes = [".csv", ".npy"] if table else [".png", ".npy"]
        out = self.out or options.beside(self.run) / f"samples{suffixes[0]}"
        if out.suffix not in suffixes:
            raise ValueError(f"--out: {out} must end in {' or '.join(suffixes)}")
        options.prepare_output("--out", out, read=[self.context] if self.context else [])
        if table and (flow.condition is None) != (self.context is None):
            raise ValueError("--context: a table for flows with context columns, and for no other")
        context: Any = self.context if table else options.given_class(flow, self.class_name)
        if context is None and isinstance(flow.condition, Classes):
            context = flow.condition.draw(range(self.n), self.seed)
        how: Any = {"seed": self.seed, "temperature": self.temperature}
        write: Any = write_rows if table else write_samples
        nonfinite = write(flow, out, n=self.n, context=context, **how)
        facts = {"out": str(out), **how, "class": self.class_name, "nonfinite": nonfinite}
        self.show(facts, f"{out}: {nonfinite} samples not finite")
        return 1 if nonfinite else 0


def write_samples(flow: "Flow", out: Path, *, n: int, context: Any = None, **how: Any) -> int:
    """Write n sampled images to a .npy or .png file; return how many are not finite.

    context: of all samples or of each.
    how: seed and temperature of `Flow.sample`.

    Entries that are not finite are written as 0.
    """
    import numpy as np

    from realnvp.data.dataset import to_pixels
    from realnvp.data.images import MAX_PIXELS
    from realnvp.figures import grid, save_png
    from realnvp.flows.flow import config_of, evaluating
    from realnvp.io.files import atomic_write

    (_, height, width), levels = config_of(flow).shape, config_of(flow).levels
    if out.suffix == ".png" and n * max(64, height) * max(64, width) > MAX_PIXELS:
        raise ValueError(f"n: {n:,} samples are too many for a PNG; name an .npy file")
    with evaluating(flow):
        x = flow.sample(n, context=context, **how)
    images = to_pixels(x, levels=levels)
    if out.suffix == ".png":
        save_png(out, grid(images, levels=levels))
    else:
        with atomic_write(out) as file:
            np.save(file, np.ascontiguousarray(images))
    return int((~x.isfinite()).flatten(1).any(1).sum())


def write_rows(flow: "Flow", out: Path, *, n: int, context: Path | None = None, **how: Any) -> int:
    """Write n sampled rows to a .csv or .npy file; return how many are not finite.

    context: a table with the context columns: n rows for each of its rows. A .csv file begins with
        these columns.
    how: seed and temperature of `Flow.sample`.
    """
    import numpy as np
    import pandas as pd

    from realnvp.bijections.base import float64_like
    from realnvp.data.tables import embed, read_frame
    from realnvp.flows.flow import config_of, evaluating
    from realnvp.io.files import atomic_write

    table, values, known = config_of(flow).table, None, pd.DataFrame()
    if context:
        frame = read_frame(context)
        values = np.repeat(embed(context, frame, table.context_values), n, axis=0)
        known = frame[[*(table.context_columns or ())]]
        known = known.loc[known.index.repeat(n)].reset_index(drop=True)
    total = n if values is None else len(values)
    with evaluating(flow):
        x = flow.sample(total, context=values, dtype=float64_like(flow).dtype, **how)
    rows = x.cpu().double().numpy()
    with atomic_write(out) as file:
        if out.suffix == ".npy":
            np.save(file, rows)
        else:
            names = table.columns or tuple(f"x{i + 1}" for i in range(rows.shape[1]))
            frame = pd.concat([known, pd.DataFrame(rows, columns=[*names])], axis=1)
            frame.to_csv(file, index=False, lineterminator="\n")
    return int((~x.isfinite()).any(1).sum())


@dataclass(kw_only=True)
class Figures(options.FlowCommand):
    """Draw the paper's figures of a trained run, and diagnostics of its density.

    Of images: samples, classes, manifold (eq 14), extrapolation, compression, latents, curves.
    Of tables: density, map, conditional, pairs, latents, curves. PNG files in RUN/figures.

    Example: realnvp figures runs/photos --only manifold --seed 1
    """

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

    def __call__(self) -> int:
        from realnvp.figures import draw_figures

        flow, _ = self.load()
        files = draw_figures(
            flow,
            self.run,
            only=self.only,
            seed=self.seed,
            class_name=options.given_class(flow, self.class_name),
            out=self.out or options.beside(self.run) / "figures",
            arrays=self.arrays,
        )
        self.show({"run": self.run, "files": [*map(str, files)]}, "\n".join(map(str, files)))
        return 0


@dataclass(kw_only=True)
class Report(options.FlowCommand):
    """Write RUN/report.html: one self-contained page with results, pictures, configuration.

    Draws all figures anew, and evaluates the model if that was not done yet.

    Example: realnvp report runs/photos
    """

    seed: int = 0
    """Seed of the figures."""

    def __call__(self) -> int:
        from realnvp.evaluation.evaluate import current_evaluation
        from realnvp.evaluation.report import report
        from realnvp.figures import draw_figures
        from realnvp.io.run_dir import RunDir

        flow, _ = self.load()
        run, result = Path(self.run), None
        codecs = getattr(RunDir(run).config.data, "levels", None) == 256
        with suppress(ValueError, OSError):  # none, or of another model or split
            result = current_evaluation(run)
        if result is None or result.which != self.which:
            how: Any = {"which": self.which, "device": self.device, "threads": self.threads}
            command = Evaluate(run=self.run, codecs=codecs, **how)
            result = command.evaluated()
            command.save(result)
        files = draw_figures(flow, self.run, seed=self.seed)
        page = str(report(run, result, files, seed=self.seed))
        self.show({"report": page, "pictures": [*map(str, files)]}, page)
        return 0


@dataclass(kw_only=True)
class Table(options.Command):
    """Print the paper's Table 1 with the results of runs, in Markdown.

    The paper's number stands beside a run with the paper's configuration, else the fields that
    differ.

    Example: realnvp table runs/cifar10 runs/photos
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run directories, each evaluated before."""

    def __call__(self) -> int:
        from realnvp.evaluation.report import markdown, table

        if not self.runs:
            raise ValueError("RUN: name run directories")
        rows = table(self.runs)
        self.show({"rows": rows}, markdown(rows))
        return 0


@dataclass(kw_only=True)
class Package(options.Command):
    """Write a folder for the Hugging Face Hub from an evaluated run: weights, configuration and a
    model card, README.md, without the paths of this machine.

    Example: realnvp package runs/photos my-flow --license mit
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """An evaluated run directory."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder to write; new or empty."""
    license: str | None = None
    """License of the weights, as the Hub names it: mit, cc-by-4.0, ..."""
    sources: str | None = None
    """Origin and licenses of the training data, for the card."""

    def __call__(self) -> int:
        from realnvp.hub import package

        package(self.run, self.folder, license=self.license, sources=self.sources)
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        text = f"{self.folder}: {size / 1e6:.2f} MB; upload: hf upload USER/NAME {self.folder}"
        self.show({"folder": str(self.folder), "bytes": size}, text)
        return 0


@dataclass(kw_only=True)
class Export(options.Command):
    """Write one method of a flow as an ONNX file (.onnx) or a torch.export program (.pt2).

    Inputs are batches of any size: x = v + u, images with their noise, or z for decode. A flow
    with classes has the class, an integer, as a second input.

    Example: realnvp export runs/photos --out log_prob.onnx
    """

    run: options.RunDir
    out: Path
    """The .onnx or .pt2 file to write."""
    call: Call = "log_prob"
    """The method; the last two are of flows with classes."""
    which: options.Which = "best"

    def __call__(self) -> int:
        import torch

        from realnvp.export import export_onnx, export_program
        from realnvp.io.pretrained import load_model

        if self.out.suffix not in (".onnx", ".pt2"):
            raise ValueError(f"--out: {self.out} must end in .onnx or .pt2")
        flow, _ = load_model(self.run, self.which)
        options.prepare_output("--out", self.out)
        if self.out.suffix == ".onnx":
            export_onnx(flow, self.out, call=self.call)
        else:
            torch.export.save(export_program(flow, call=self.call), self.out)
        size = self.out.stat().st_size
        values = {"out": str(self.out), "call": self.call, "bytes": size}
        self.show(values, f"{self.out}: {self.call}, {size / 1e6:.2f} MB")
        return 0
