"""All figures of a run, or some, to files."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from realnvp.config import Config, ImageData, nearest
from realnvp.config.errors import ParameterError
from realnvp.device import is_out_of_memory
from realnvp.figures import diagnostics as trust
from realnvp.figures import paper, points
from realnvp.figures.drawing import Drawing, TrainedRun
from realnvp.figures.grids import save_png
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, config_of, evaluating
from realnvp.io.files import DamagedError, atomic_write
from realnvp.progress import Report, progress

Figures = Mapping[str, Callable[[TrainedRun], Iterator[Drawing]]]
IMAGES: Figures = {
    "samples": paper.samples,
    "manifold": paper.manifold,
    "extrapolation": paper.extrapolation,
    "compression": paper.compression,
    "latents": trust.latents,
    "curves": trust.curves,
}
POINTS: Figures = {
    "density": points.density,
    "map": points.both_ways,
    "latents": points.latents,
    "curves": trust.curves,
}
ROWS: Figures = {"pairs": points.pairs, "latents": points.latents, "curves": trust.curves}
PLOTTED = {"latents", "curves", "density", "map", "pairs", "conditional"}  # by matplotlib


def figures_of(config: Config) -> Figures:
    """What can be drawn: of images, of points of a plane (two columns), of wider tables."""
    if isinstance(config.data, ImageData):
        return {"classes": paper.classes, **IMAGES} if config.data.classes else IMAGES
    if config.data.shape != (2,):
        return ROWS
    return {"conditional": points.conditional, **ROWS} if config.data.context_columns else POINTS


class Drawn(NamedTuple):
    """What came of drawing figures."""

    files: list[Path]
    """The files written."""
    missing: dict[str, str]
    """Figures that could not be drawn, or not all of their pictures, and why."""
    context: str | None
    """The class that all but `classes` and `curves` are of."""


def draw_figures(
    flow: Flow,
    run: str | Path,
    *,
    only: Sequence[str] = (),
    seed: int = 0,
    context: str | None = None,
    out: Path | None = None,
    arrays: bool = False,
) -> list[Path]:
    """Draw figures of a trained run and return the files written.

    only: names of figures. (): all.
    seed: of all that is chosen or drawn at random.
    given: the class of all figures but `classes`, of a flow given classes. None: the most frequent.
    out: the folder. None: RUN/figures.
    arrays: also write what was drawn, as NAME-ARRAY.npy.

    A figure that cannot be drawn is left out, with a warning. ValueError names a figure in `only`
    that is unknown or cannot be drawn.
    """
    return drawn_figures(
        flow, run, only=only, seed=seed, context=context, out=out, arrays=arrays
    ).files


def drawn_figures(
    flow: Flow,
    run: str | Path,
    *,
    only: Sequence[str] = (),
    seed: int = 0,
    context: str | None = None,
    out: Path | None = None,
    arrays: bool = False,
) -> Drawn:
    """`draw_figures`, which also tells what could not be drawn."""
    config = config_of(flow)
    figures = figures_of(config)
    names = _chosen(figures, only, Path(run))
    trained = TrainedRun(flow, config, Path(run), seed)
    if isinstance(flow.condition, Classes):
        trained.of(flow, context)
    drawn = Drawn([], {}, trained.context)
    folder = Path(run, "figures") if out is None else out
    if not only:
        # A seed below 0, data that are missing or damaged: no single figure's fault.
        trained.some(trained.splits.test, 1)
    if folder.exists() and not folder.is_dir():
        raise ParameterError("out", f"{folder} is a file; name a folder")
    with evaluating(flow), progress("figure", len(names)) as report:
        for done, name in enumerate(names):
            trained.say = partial(_say, report, done, name)
            try:
                for drawing in figures[name](trained):
                    drawn.files.extend(_write(drawing, folder, arrays=arrays))
            except Exception as error:
                if not (why := _why_not(error)) or (only and not isinstance(error, ValueError)):
                    raise
                if only:
                    raise ValueError(f"{name}: {why}") from error
                drawn.missing[name] = why
                warnings.warn(f"{name} is left out: {why}", stacklevel=3)
        report(len(names))
    return drawn


def _why_not(error: Exception) -> str:
    """Why a figure could not be drawn; '' if the error is about more than that figure."""
    if is_out_of_memory(error):
        return "not enough memory for it"
    return str(error) if isinstance(error, ValueError | DamagedError) else ""


def _say(report: Report, done: int, name: str, words: str) -> None:
    report(done, f"{name}: {words}")


def _chosen(figures: Figures, only: Sequence[str], run: Path) -> list[str]:
    if unknown := next((name for name in only if name not in figures), None):
        raise ParameterError(
            "only",
            f"no figure {unknown!r}{nearest(unknown, figures)}; there are {', '.join(figures)}",
        )
    # A shared flow does not tell how it was trained.
    lacks = set() if (run / "metrics.jsonl").exists() else {"curves"}
    names = [name for name in figures if name in only or not (only or name in lacks)]
    if PLOTTED & {*names}:
        import matplotlib  # noqa: F401  # a missing extra is told before anything is computed
    return names


def _write(drawing: Drawing, folder: Path, *, arrays: bool) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{drawing.name}.png"]
    save_png(paths[0], drawing.picture)
    for name, array in drawing.arrays.items() if arrays else ():
        paths.append(folder / f"{drawing.name}-{name}.npy")
        with atomic_write(paths[-1]) as file:
            np.save(file, array)
    return paths
