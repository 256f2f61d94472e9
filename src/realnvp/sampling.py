"""Samples to files, in bounded memory."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp.data import quantize
from realnvp.data.images import MAX_PIXELS
from realnvp.figures import data_beside_samples, samples_only, save_png, scatter
from realnvp.flow import Flow, state_like
from realnvp.folders import atomic_save
from realnvp.likelihood import evaluating
from realnvp.progress import progress

Pixels = NDArray[np.uint8]
Rows = NDArray[np.float64]
CHUNK = 64
MANY = 16_384  # rows at a time


def _drawn(flow: Flow, n: int, at_once: int, **how: Any) -> Iterator[Tensor]:
    """n samples, so many at once. how: what `Flow.sample` takes."""
    with evaluating(flow), progress("sample", n) as report:
        for first in range(0, n, at_once):
            count = min(at_once, n - first)
            yield flow.sample(count, first=first, **how)
            report(first + count)


def _nonfinite(x: Tensor) -> int:
    """How many of the samples have an entry that is not finite."""
    return int((~x.isfinite()).flatten(1).any(1).sum())


def write_samples(flow: Flow, out: Path, *, n: int, seed: int, temperature: float, data: Pixels | None = None) -> int:
    """How many samples have an entry that is not finite (it is written as 0). Writes out, .npy or .png, a chunk at a time.

    data: uint8 (N, H, W, C) to show beside the samples in a PNG.
    """
    assert flow.config is not None
    assert flow.config.data.shape is not None
    channels, height, width = flow.config.data.shape
    levels = flow.config.data.levels
    assert levels is not None
    if out.suffix != ".npy" and n * max(64, height) * max(64, width) > MAX_PIXELS:  # a grid's images are 64 pixels high or more
        raise ValueError(f"-n: {n:,} samples are too many for a PNG; name an .npy file")
    nonfinite = 0

    def chunks() -> Iterator[Pixels]:
        nonlocal nonfinite
        for x in _drawn(flow, n, CHUNK, seed=seed, temperature=temperature):
            nonfinite += _nonfinite(x)
            yield quantize(torch.nan_to_num(x), levels=levels).permute(0, 2, 3, 1).cpu().numpy()

    def write(file: BinaryIO) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, height, width, channels)}
        np.lib.format.write_array_header_1_0(file, header)
        file.writelines(chunk.tobytes() for chunk in chunks())

    if out.suffix == ".npy":
        atomic_save(out, write, size=n * channels * height * width)
    elif data is not None:
        data_beside_samples(out, data, np.concatenate([*chunks()]), levels=levels)
    else:
        samples_only(out, np.concatenate([*chunks()]), levels=levels)
    return nonfinite


def write_rows(flow: Flow, out: Path, *, n: int, seed: int, temperature: float, data: Rows | None = None) -> int:
    """How many sampled rows have an entry that is not finite. Writes out, .csv with a header, .npy, or a .png of two columns.

    data: (N, 2), to show beside the samples in a PNG.
    """
    assert flow.config is not None
    assert flow.config.data.shape is not None
    (count,) = flow.config.data.shape
    columns = flow.config.data.columns or tuple(f"x{i + 1}" for i in range(count))
    if out.suffix == ".png" and count != 2:
        raise ValueError(f"--out: {out} can show tables of two columns only, this one has {count}; name a .csv or .npy file")
    nonfinite = 0

    def chunks() -> Iterator[Rows]:
        nonlocal nonfinite
        for x in _drawn(flow, n, MANY, seed=seed, temperature=temperature, dtype=state_like(flow).dtype):
            nonfinite += _nonfinite(x)
            yield x.cpu().double().numpy()

    def as_npy(file: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (n, count)})
        file.writelines(chunk.tobytes() for chunk in chunks())

    def as_csv(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        for chunk in chunks():
            table.writerows(chunk.tolist())
        text.detach()

    if out.suffix == ".png":
        groups = {} if data is None else {"data": np.asarray(data)}
        save_png(out, scatter(groups | {"samples": np.concatenate([*chunks()])}, columns))
    else:
        atomic_save(out, as_npy if out.suffix == ".npy" else as_csv)
    return nonfinite


def fast_error(flow: Flow, quick: Flow, *, seed: int, temperature: float) -> float:
    """Grey levels by which samples of `quick`, made by `realnvp.fast(flow)`, are off: the median over the pixels of 8 samples."""
    with evaluating(flow):
        exact, approximate = (each.sample(8, temperature=temperature, seed=seed) for each in (flow, quick))
    return float((exact - approximate).abs().median())
