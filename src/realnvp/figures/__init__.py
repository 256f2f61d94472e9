"""Pictures. The only room that draws."""

from realnvp.figures.grids import data_beside_samples, samples_only, save_png
from realnvp.figures.paper import FIGURES, draw_figures
from realnvp.figures.plots import scatter

__all__ = ["FIGURES", "data_beside_samples", "draw_figures", "samples_only", "save_png", "scatter"]
