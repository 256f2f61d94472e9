"""Pictures. The only room that draws."""

from realnvp.figures.grids import data_beside_samples, samples_only
from realnvp.figures.paper import FIGURES, draw_figures

__all__ = ["FIGURES", "data_beside_samples", "draw_figures", "samples_only"]
