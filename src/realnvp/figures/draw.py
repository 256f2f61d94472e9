"""All figures of a run, or some, to files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from realnvp.config import Config, nearest
from realnvp.figures import paper, points
from realnvp.figures.curves import curves
from realnvp.figures.grids import save_png
from realnvp.figures.subject import Drawing, Subject
from realnvp.flow import Flow
from realnvp.folders import atomic_save
from realnvp.likelihood import evaluating
from realnvp.progress import Report, progress

Figures = Mapping[str, Callable[[Subject], Iterator[Drawing]]]
IMAGES: Figures = paper.FIGURES | {"curves": curves}
POINTS: Figures = points.OF_TWO | points.FIGURES | {"curves": curves}
ROWS: Figures = points.OF_MORE | points.FIGURES | {"curves": curves}
PLOTTED = {"latents", "curves", *points.OF_TWO, *points.OF_MORE}  # by matplotlib


def figures_of(config: Config) -> Figures:
    """What can be drawn of a run: of images; of a table of two columns, which are points of a plane; of one with more."""
    if config.data.levels is not None:
        return IMAGES
    return POINTS if config.data.shape == (2,) else ROWS


def draw_figures(
    flow: Flow, run: str | Path, *, only: Sequence[str] = (), seed: int = 0, out: Path | None = None, arrays: bool = False
) -> list[Path]:
    """The files written: figures of a trained run, all or those named in `only`, under RUN/figures or out.

    arrays: also what was drawn, as NAME-ARRAY.npy. ValueError names an unknown figure, or what the run lacks.
    """
    assert flow.config is not None
    figures = figures_of(flow.config)
    names = _chosen(figures, only, Path(run))
    subject, written, folder = Subject(flow, flow.config, Path(run), seed), [], Path(run, "figures") if out is None else out
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out: {folder} is a file; name a folder")
    with evaluating(flow), progress("figure", len(names)) as report:
        for done, name in enumerate(names):
            subject.say = partial(_say, report, done, name)
            for drawing in figures[name](subject):
                written += _write(drawing, folder, arrays=arrays)
        report(len(names))
    return written


def _say(report: Report, done: int, name: str, words: str) -> None:
    report(done, f"{name}: {words}")


def _chosen(figures: Figures, only: Sequence[str], run: Path) -> list[str]:
    if unknown := next((name for name in only if name not in figures), None):
        raise ValueError(f"--only: no figure {unknown!r}{nearest(unknown, figures)}; there are {', '.join(figures)}")
    lacks = set() if (run / "metrics.jsonl").exists() else {"curves"}  # a shared flow does not tell how it was trained
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
        atomic_save(paths[-1], partial(np.save, arr=array))
    return paths
