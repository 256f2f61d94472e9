"""Pictures of runs, samples and heat maps; the only package that draws."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from realnvp.config.fields import Config, ImageData
from realnvp.figures import paper, points
from realnvp.figures.grids import grid, save_png, side_by_side
from realnvp.figures.paper import Drawing, TrainedRun
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, config_of, evaluating
from realnvp.io.files import atomic_write
from realnvp.progress import set_status, track

__all__ = ["draw_figures", "figures_of", "grid", "save_png", "side_by_side"]

Figures = Mapping[str, Callable[[TrainedRun], Iterator[Drawing]]]
IMAGES: Figures = {
    "samples": paper.samples,
    "manifold": paper.manifold,
    "extrapolation": paper.extrapolation,
    "compression": paper.compression,
    "latents": paper.latents,
    "curves": paper.curves,
}
ROWS: Figures = {"pairs": points.pairs, "latents": points.latents, "curves": paper.curves}
POINTS: Figures = {
    "density": points.density,
    "map": points.both_ways,
    "latents": points.latents,
    "curves": paper.curves,
}


def figures_of(config: Config) -> Figures:
    """The figures by name: of images, of two columns, of wider tables."""
    if isinstance(config.data, ImageData):
        return {"classes": paper.classes, **IMAGES} if config.data.classes else IMAGES
    if config.data.shape != (2,):
        return ROWS
    return {"conditional": points.conditional, **ROWS} if config.data.context_columns else POINTS


def draw_figures(
    flow: Flow,
    run: str | Path,
    *,
    only: Sequence[str] = (),
    seed: int = 0,
    class_name: str | None = None,
    out: Path | None = None,
    arrays: bool = False,
) -> list[Path]:
    """Draw figures of a trained run and return the files written.

    only: names of figures; (): all, but a warning in place of those that the run has too few
        images or scales for.
    seed: of all choices and samples.
    class_name: of a class-conditional flow: the class of all figures but `classes` and `curves`;
        None: the most frequent.
    out: the folder; None: RUN/figures.
    arrays: also write the arrays shown, as NAME-ARRAY.npy.

    ValueError: a figure in `only` is unknown or cannot be drawn.
    """
    trained = TrainedRun(flow, config_of(flow), Path(run), seed)
    figures, folder = figures_of(trained.config), Path(run, "figures") if out is None else out
    for name in only:
        if name not in figures:
            raise ValueError(f"only: {name!r} is not one of {', '.join(figures)}")
    names = [name for name in figures if name in only or not only]
    if not only and not Path(run, "metrics.jsonl").exists():  # a saved flow has none
        names.remove("curves")
    if isinstance(flow.condition, Classes):
        trained.condition_on(class_name)
    files = []
    with evaluating(flow):
        for name in track(names, "figures"):
            set_status(name)
            try:
                for drawing in figures[name](trained):
                    files += _write(drawing, folder, arrays)
            except ValueError as error:
                if only:
                    raise
                warnings.warn(f"{name} is left out: {error}", stacklevel=2)
    return files


def _write(drawing: Drawing, folder: Path, arrays: bool) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{drawing.name}.png"]
    save_png(paths[0], drawing.picture)
    for name, array in drawing.arrays.items() if arrays else ():
        paths.append(folder / f"{drawing.name}-{name}.npy")
        with atomic_write(paths[-1]) as file:
            np.save(file, array)
    return paths
