"""Samples of images and rows to files."""

from pathlib import Path
from typing import Any

import numpy as np

from realnvp.bijections.base import float64_like
from realnvp.data.dataset import to_pixels
from realnvp.data.images import MAX_PIXELS
from realnvp.data.tables import read_context, read_frame
from realnvp.figures import grid, save_png
from realnvp.flows.flow import Flow, config_of, evaluating
from realnvp.io.files import atomic_write


def write_samples(flow: Flow, out: Path, *, n: int, context: Any = None, **how: Any) -> int:
    """Write n sampled images to a .npy or .png file; return how many are not finite.

    context: of all samples or of each.
    how: seed and temperature of `Flow.sample`.

    Entries that are not finite are written as 0.
    """
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


def write_rows(flow: Flow, out: Path, *, n: int, context: Path | None = None, **how: Any) -> int:
    """Write n sampled rows to a .csv or .npy file; return how many are not finite.

    context: a table with the context columns: n rows for each of its rows. A .csv file begins with
        these columns.
    how: seed and temperature of `Flow.sample`.
    """
    import pandas as pd

    table, values, known = config_of(flow).table, None, pd.DataFrame()
    if context:
        values = np.repeat(read_context(context, table), n, axis=0)
        known = read_frame(context)[[*(table.context_columns or ())]]
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
