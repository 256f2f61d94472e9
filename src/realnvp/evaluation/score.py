"""Scores of single image files, or of a table's rows: how likely is each?"""

import math
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from realnvp.config import DataConfig
from realnvp.config.units import in_bits_per_dim
from realnvp.config.words import listed
from realnvp.data import channels_first, image_files, read_image, read_table, to_size
from realnvp.data.dataset import Pixels
from realnvp.data.images import check_fit
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, config_of
from realnvp.flows.given import Classes
from realnvp.tools.progress import Report, chunks

CHUNK = 64


class Score(NamedTuple):
    """One image's density."""

    path: str
    log_prob: float
    """Nats."""
    bits_per_dim: float
    rank: int
    """1 is the least likely."""


class ClassScore(NamedTuple):
    """One image's density under the mixture of all classes, and its class."""

    path: str
    log_prob: float
    """Nats, of the mixture."""
    bits_per_dim: float
    rank: int
    """1 is the least likely."""
    likeliest_class: str
    class_probability: float
    """p(c | x) of this class."""


class RowScore(NamedTuple):
    """One row's density."""

    path: str
    row: int
    """1 is the first after the header."""
    log_prob: float
    """Nats, in the units of the columns."""
    rank: int
    """1 is the least likely."""


COMPARED = 16  # scores of a fast flow, with the scores of the flow itself


def fast_error(flow: Flow, scores: Sequence[Score | ClassScore], **how: Any) -> float:
    """The largest error, in bits/dim, of the first few scores made with `realnvp.fast(flow)`.

    how: what `score` was given.
    """
    exact = score(flow, [Path(entry.path) for entry in scores[:COMPARED]], **how)
    return max(
        abs(a.bits_per_dim - b.bits_per_dim) for a, b in zip(exact, scores[:COMPARED], strict=True)
    )


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The paths, with the image files of a folder in its place; ValueError if there are none."""
    files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
    if not files:
        raise ValueError(f"{', '.join(map(str, paths))}: no image files in it")
    return files


def score(
    flow: Flow,
    files: Sequence[Path],
    *,
    noise_draws: int = 1,
    seed: int = 0,
    resize: bool = False,
    report: Report | None = None,
) -> Sequence[Score | ClassScore]:
    """Score image files: log-density, bits/dim, rank.

    Of a flow given classes also the most likely class and its probability.

    noise_draws: log p is averaged over them.
    seed: of the noise. An image's noise is a function of the seed and its pixels alone.
    resize: bring each image to the flow's size, as `realnvp prepare images --resize`.
    report: told how many are done.

    ValueError names all files that cannot be read or have another size than the flow's.
    """
    data, shape = config_of(flow).data, config_of(flow).shape
    nats: list[float] = []
    classes: list[tuple[str, float]] = []
    bad: list[str] = []
    for chunk in chunks(len(files), CHUNK, report):
        read = (_fitting(file, data, bad, resize=resize) for file in files[chunk])
        images = [image for image in read if image is not None]
        if images and not bad:
            density = partial(
                log_probs,
                flow,
                np.stack(images),
                noise_draws=noise_draws,
                seed=seed,
                indices=[zlib.crc32(image.tobytes()) for image in images],
            )
            if isinstance(flow.condition, Classes):
                names = flow.condition.names
                joint = flow.condition.joint([density(given=c) for c in range(len(names))])
                nats += joint.logsumexp(1).tolist()
                shares, likeliest = joint.softmax(1).max(1)
                classes += zip([names[i] for i in likeliest], shares.tolist(), strict=True)
            else:
                nats += density().tolist()
    if bad:
        raise ValueError(listed(bad))
    scores = [
        Score(str(file), value, in_bits_per_dim(value, shape), rank)
        for file, value, rank in zip(files, nats, _ranks(nats), strict=True)
    ]
    if not classes:
        return scores
    return [ClassScore(*entry, *found) for entry, found in zip(scores, classes, strict=True)]


def score_rows(flow: Flow, files: Sequence[Path]) -> list[RowScore]:
    """Score the rows of tables, ranked together.

    Columns are found by their names; other columns are passed over. ValueError names the file, and
    the columns that are missing or hold numbers that are not finite.
    """
    config = config_of(flow)
    (width,) = config.shape
    places: list[tuple[str, int]] = []
    nats: list[float] = []
    for file in files:
        rows, columns = read_table(file, config.data.columns)
        if len(columns) != width:
            raise ValueError(f"{file}: {len(columns)} columns, but the flow was trained on {width}")
        nats += log_probs(flow, rows).tolist()
        places += [(str(file), i + 1) for i in range(len(rows))]
    return [
        RowScore(*place, value, rank)
        for place, value, rank in zip(places, nats, _ranks(nats), strict=True)
    ]


def _ranks(nats: list[float]) -> list[int]:
    """1 for the least likely. NaN counts as the least likely."""
    order = sorted(range(len(nats)), key=lambda i: (not math.isnan(nats[i]), nats[i]))
    ranks = dict(zip(order, range(1, len(order) + 1), strict=True))
    return [ranks[i] for i in range(len(nats))]


def _fitting(file: Path, data: DataConfig, bad: list[str], *, resize: bool) -> Pixels | None:
    """The image as (C, H, W), or None, with a complaint added to bad."""
    assert data.shape
    assert data.levels
    shape, (channels, height, width) = data.shape, data.shape
    try:
        pixels = read_image(file, data.reading)
        check_fit(pixels, channels=channels, levels=data.levels, name=file)
        if resize or data.resize:
            pixels = to_size(pixels, resize=(height,) if height == width else (height, width))
        image: Pixels = channels_first(pixels[None])[0]
    except ValueError as error:
        bad.append(str(error) if str(file) in str(error) else f"{file}: {error}")
        return None
    if image.shape != shape:
        bad.append(
            f"{file}: {_describe(image.shape)}, but the flow was trained on {_describe(shape)}; "
            "--resize brings it to that"
        )
    else:
        return image
    return None


def _describe(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[2]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"
