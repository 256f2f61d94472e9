"""Samples to files, in bounded memory."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from realnvp.bijections.base import float64_like
from realnvp.data import to_pixels
from realnvp.data.dataset import npy_header
from realnvp.data.images import MAX_PIXELS, deep_png
from realnvp.data.tables import read_cells, read_context
from realnvp.figures import grid, save_png, scatter, side_by_side
from realnvp.flows.flow import Flow, config_of, evaluating
from realnvp.io.files import atomic_write
from realnvp.progress import track_slices

Array = NDArray[Any]
IMAGES, ROWS = 64, 16_384  # at a time
GAP = 2  # white between the images of a sheet


class _Samples:
    """n samples in batches; counts the samples with an entry that is not finite."""

    def __init__(self, flow: Flow, n: int, batch: int, *, context: Any, **how: Any) -> None:
        self.flow, self.n, self.batch, self.how = flow, n, batch, how
        self.context = flow.condition_of_each(context, n)
        self.nonfinite = 0

    def __iter__(self) -> Iterator[Tensor]:
        with evaluating(self.flow):
            for part in track_slices(self.n, self.batch, "samples"):
                c = None if self.context is None else self.context[part]
                count = part.stop - part.start
                x = self.flow.sample(count, first=part.start, context=c, **self.how)
                self.nonfinite += int((~x.isfinite()).flatten(1).any(1).sum())
                yield x


def write_samples(
    flow: Flow, out: Path, *, n: int, context: Any = None, data: Array | None = None, **how: Any
) -> int:
    """Write n sampled images to a .npy or .png file; return how many are not finite.

    context: of all samples or of each.
    data: images (N, H, W, C) to show beside the samples in a PNG.
    how: seed and temperature of `Flow.sample`.

    Entries that are not finite are written as 0. A PNG of more than 256 levels has 16 bits per
    channel, except beside data.
    """
    config = config_of(flow)
    (channels, height, width), levels = config.shape, config.levels
    samples = _Samples(flow, n, IMAGES, context=context, **how)
    pixels = (to_pixels(x, levels=levels) for x in samples)
    if out.suffix == ".npy":
        _write_npy(out, pixels, (n, height, width, channels), "|u1" if levels <= 256 else "<u2")
        return samples.nonfinite
    if n * max(64, height) * max(64, width) > MAX_PIXELS:  # small images are enlarged
        raise ValueError(f"n: {n:,} samples are too many for a PNG; name an .npy file")
    images = np.concatenate([*pixels])
    if data is not None:
        side_by_side(out, {"data": data, "samples": images}, levels=levels)
    elif levels > 256:
        with atomic_write(out) as file:
            file.write(deep_png(sheet(images, levels=levels)))
    else:
        save_png(out, grid(images, levels=levels))
    return samples.nonfinite


def sheet(images: Array, *, levels: int) -> NDArray[np.uint16]:
    """Images in rows, uint16 (H, W, C), white between them; 0 .. levels - 1 become 0 .. 65535."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    down, across = height + GAP, width + GAP
    cells = np.full((-(-count // columns) * columns, down, across, channels), 65535, np.uint16)
    cells[:count, :height, :width] = np.rint(images * (65535 / (levels - 1)))
    rows = cells.reshape(-1, columns, down, across, channels).swapaxes(1, 2)
    return rows.reshape(-1, columns * across, channels)[:-GAP, :-GAP]


def write_rows(
    flow: Flow,
    out: Path,
    *,
    n: int,
    context: Path | None = None,
    data: Array | None = None,
    **how: Any,
) -> int:
    """Write n sampled rows to a .csv, .npy, or (two columns) .png file.

    Return how many have an entry that is not finite.

    context: a table with the context columns: n rows for each of its rows. A .csv file begins with
        these columns.
    data: (N, 2), to show beside the samples in a PNG.
    how: seed and temperature of `Flow.sample`.
    """
    table = config_of(flow).table
    (count,) = config_of(flow).shape
    columns = table.columns or tuple(f"x{i + 1}" for i in range(count))
    if out.suffix == ".png" and count != 2:
        raise ValueError(f"out: {out} shows two columns, the table has {count}; name a .csv file")
    values, first = None, dict[str, list[str]]()
    if context:
        values = np.repeat(read_context(context, table), n, axis=0)
        first = read_cells(context, table.context_columns or ())
    total = n if values is None else len(values)
    how["dtype"] = float64_like(flow).dtype
    samples = _Samples(flow, total, ROWS, context=values, **how)
    rows = (x.cpu().double().numpy() for x in samples)
    if out.suffix == ".png":
        groups = {} if data is None else {"data": np.asarray(data)}
        save_png(out, scatter(groups | {"samples": np.concatenate([*rows])}, columns))
    elif out.suffix == ".npy":
        _write_npy(out, rows, (total, count), "<f8")
    else:
        numbers = (row for part in rows for row in part.tolist())
        cells = [*zip(*first.values(), strict=True)] or [()]
        with atomic_write(out) as file:
            text = io.TextIOWrapper(file, "utf-8", newline="")
            lines = csv.writer(text, lineterminator="\n")
            lines.writerow((*first, *columns))
            lines.writerows((*cells[i // n], *row) for i, row in enumerate(numbers))
            text.detach()
    return samples.nonfinite


def _write_npy(out: Path, parts: Iterable[Array], shape: tuple[int, ...], kind: str) -> None:
    with atomic_write(out) as file:
        file.write(npy_header(shape, kind))
        file.writelines(part.tobytes() for part in parts)


def fast_error(flow: Flow, quick: Flow, *, context: Any = None, **how: Any) -> float:
    """The median error, in gray levels, of 8 samples of `quick`, made by `realnvp.fast(flow)`."""
    with evaluating(flow):
        exact, other = (each.sample(8, context=context, **how) for each in (flow, quick))
    return float((exact - other).abs().median())
