"""Samples to files, in bounded memory."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from realnvp.bijections.base import float64_like
from realnvp.config.errors import ParameterError
from realnvp.data import to_pixels
from realnvp.data.dataset import Pixels, npy_header
from realnvp.data.images import MAX_PIXELS, deep_png
from realnvp.data.tables import read_cells, read_context
from realnvp.figures import data_beside_samples, grid, save_png, scatter
from realnvp.flows.flow import Flow, config_of, evaluating
from realnvp.io.files import atomic_write
from realnvp.progress import chunks, progress

Rows = NDArray[np.float64]
CHUNK, GAP = 64, 2
MANY = 16_384  # rows at a time


class _Samples:
    """n samples, at_once at a time; counts the samples with an entry that is not finite."""

    def __init__(
        self, flow: Flow, n: int, at_once: int, *, context: Any = None, **how: Any
    ) -> None:
        self.flow, self.n, self.at_once, self.how = flow, n, at_once, how
        self.context = flow.condition_of_each(context, n)
        self.nonfinite = 0

    def __iter__(self) -> Iterator[Tensor]:
        with evaluating(self.flow), progress("sample", self.n) as report:
            for chunk in chunks(self.n, self.at_once, report):
                c = None if self.context is None else self.context[chunk]
                x = self.flow.sample(
                    chunk.stop - chunk.start, first=chunk.start, context=c, **self.how
                )
                self.nonfinite += int((~x.isfinite()).flatten(1).any(1).sum())
                yield x


def write_samples(
    flow: Flow,
    out: Path,
    *,
    n: int,
    seed: int,
    temperature: float,
    context: Any = None,
    data: Pixels | None = None,
) -> int:
    """Write sampled images to out, .npy or .png, and return how many are not finite.

    n: how many images.
    seed, temperature: of the latents.
    given: c of all samples, or of each, of a conditional flow.
    data: uint8 (N, H, W, C) to show beside the samples in a PNG.

    Entries that are not finite are written as 0. A PNG of more than 256 levels has 16 bits per
    channel, except beside data.
    """
    config = config_of(flow)
    (channels, height, width), levels = config.shape, config.levels
    # The images of a grid are 64 pixels high or more.
    if out.suffix != ".npy" and n * max(64, height) * max(64, width) > MAX_PIXELS:
        raise ParameterError("n", f"{n:,} samples are too many for a PNG; name an .npy file")
    samples = _Samples(flow, n, CHUNK, context=context, seed=seed, temperature=temperature)
    chunks = (to_pixels(x, levels=levels) for x in samples)
    if out.suffix == ".npy":
        kind = "|u1" if levels <= 256 else "<u2"
        with atomic_write(out) as file:
            _as_npy(chunks, (n, height, width, channels), kind, file)
    elif levels > 256 and data is None:
        content = deep_png(sheet(np.concatenate([*chunks]), levels=levels))
        with atomic_write(out) as file:
            file.write(content)
    elif data is not None:
        data_beside_samples(out, data, np.concatenate([*chunks]), levels=levels)
    else:
        save_png(out, grid(np.concatenate([*chunks]), levels=levels))
    return samples.nonfinite


def sheet(images: Pixels, *, levels: int) -> NDArray[np.uint16]:
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
    seed: int,
    temperature: float,
    context: Path | None = None,
    data: Rows | None = None,
) -> int:
    """Write sampled rows to out, .csv with a header, .npy, or a .png of two columns.

    n: how many rows.
    seed, temperature: of the latents.
    given: the table of given columns, of a flow that is given columns: n rows for each of its rows.
        A .csv begins with these columns.
    data: (N, 2), to show beside the samples in a PNG.

    Returns how many have an entry that is not finite.
    """
    config = config_of(flow)
    (count,) = config.shape
    columns = config.table.columns or tuple(f"x{i + 1}" for i in range(count))
    if out.suffix == ".png" and count != 2:
        raise ParameterError(
            "out",
            f"{out} can show tables of two columns only, this one has {count}; "
            "name a .csv or .npy file",
        )
    condition, cells = None, None
    if context:
        condition = np.repeat(read_context(context, config.table), n, axis=0)
        cells = read_cells(context, config.table.context_columns or ())
        each, n = n, len(condition)
    samples = _Samples(
        flow,
        n,
        MANY,
        context=condition,
        seed=seed,
        temperature=temperature,
        dtype=float64_like(flow).dtype,
    )
    chunks = (x.cpu().double().numpy() for x in samples)
    if out.suffix == ".png":
        groups = {} if data is None else {"data": np.asarray(data)}
        save_png(out, scatter(groups | {"samples": np.concatenate([*chunks])}, columns))
    elif out.suffix == ".npy":
        with atomic_write(out) as file:
            _as_npy(chunks, (n, count), "<f8", file)
    else:
        in_front = (
            (cell for row in zip(*cells.values(), strict=True) for cell in [row] * each)
            if cells
            else repeat(())
        )
        names = (*(cells or ()), *columns)
        with atomic_write(out) as file:
            _as_csv(chunks, names, in_front, file)
    return samples.nonfinite


def _as_npy(
    chunks: Iterable[NDArray[Any]], shape: tuple[int, ...], kind: str, file: BinaryIO
) -> None:
    file.write(npy_header(shape, kind))
    file.writelines(chunk.tobytes() for chunk in chunks)


def _as_csv(
    chunks: Iterable[Rows],
    columns: Sequence[str],
    in_front: Iterator[tuple[str, ...]],
    file: BinaryIO,
) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for chunk in chunks:
        table.writerows((*next(in_front), *row) for row in chunk.tolist())
    text.detach()


def fast_error(
    flow: Flow, quick: Flow, *, seed: int, temperature: float, context: Any = None
) -> float:
    """The error, in grey levels, of samples of `quick`, made by `realnvp.fast(flow)`.

    The median over the pixels of 8 samples.
    """
    with evaluating(flow):
        exact, approximate = (
            each.sample(8, context=context, temperature=temperature, seed=seed)
            for each in (flow, quick)
        )
    return float((exact - approximate).abs().median())
