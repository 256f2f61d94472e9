"""Pictures. The only room that draws."""

from realnvp.evaluation.figures.draw import IMAGES as FIGURES
from realnvp.evaluation.figures.draw import draw_figures, drawn_figures, figures_of
from realnvp.evaluation.figures.grids import (
    data_beside_samples,
    grid,
    save_png,
    side_by_side,
)
from realnvp.evaluation.figures.point_plots import scatter

__all__ = [
    "FIGURES",
    "data_beside_samples",
    "draw_figures",
    "drawn_figures",
    "figures_of",
    "grid",
    "save_png",
    "scatter",
    "side_by_side",
]
