"""Pictures. The only room that draws."""

from realnvp.figures.draw import draw_figures, drawn_figures, figures_of
from realnvp.figures.grids import data_beside_samples, grid, save_png, side_by_side
from realnvp.figures.plots import scatter

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
