"""Handwritten digits of 8x8 pixels that scikit-learn ships: a real data set that needs no download."""

import importlib

import numpy as np

from realnvp.data.source import Source, array_part, cut_off


def digits(held_out: float, *, seed: int) -> Source:
    """The 1797 digits, (1, 8, 8) with 17 grey levels, split by the seed's permutation."""
    images = importlib.import_module("sklearn.datasets").load_digits().images[..., None].astype(np.uint8)
    parts = cut_off({"train": array_part(images)}, held_out, seed=seed)
    return Source("digits", "scikit-learn load_digits", 17, (1, 8, 8), parts)
