"""Scores of single image files, or of a table's rows: how likely is each?"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections.base import float64_like
from realnvp.config.errors import ParameterError, count_of
from realnvp.config.fields import AS_FOUND, AT_LEAST_ONE, DecodeOptions, check_number
from realnvp.config.units import in_bits_per_dim
from realnvp.data import channels_first, dequantize, read_image, read_table, to_size
from realnvp.data.dataset import Pixels, in_threads
from realnvp.data.folder import pictures_of
from realnvp.data.images import RefusedImage, by_reason, check_fit
from realnvp.data.tables import read_context
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, config_of, evaluating, prior_map
from realnvp.flows.tiled import MEMORY, tiled
from realnvp.progress import Report, chunks
from realnvp.random import Purpose, uniform

ROWS = 256  # of a picture, summed at once
MOST_IN_FLOAT64 = 2**23  # entries of x; z and log-det of larger pictures are float32


def picture_map(
    flow: Flow,
    picture: Pixels,
    *,
    context: Any = None,
    noise_draws: int = 1,
    seed: int = 0,
    memory: int = MEMORY,
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """(H, W), float64: what each pixel contributes to log p of a picture, in nats.

    The sum is log p where the flow's scales divide both sides. Other pictures are continued, at
    their right and lower edges, by their own mirror image, whose nats are left out: so each pixel
    has its nats, and none of the picture is cut off.

    picture: (H, W, C), as `read_image` gives it.
    given: the condition of a conditional flow.
    noise_draws: log p is averaged over them.
    seed: of the noise, a function of the seed and the picture's pixels.
    memory: bytes for the networks; where it is not enough they see overlapping strips, to the same
        result.
    report: told how many strips are done, and of how many.

    ParameterError: it is no such array. RefusedImage: it has other channels or grey levels than the
    flow.
    """
    config = config_of(flow)
    noise_draws = check_number("noise_draws", noise_draws, int, AT_LEAST_ONE)
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        found = getattr(picture, "shape", type(picture).__name__)
        raise ParameterError("picture", f"expected an array (H, W, C), got {found}")
    check_fit(picture, channels=config.shape[0], levels=config.levels, name="picture")
    height, width, _ = picture.shape
    total = torch.zeros(height, width, dtype=torch.float64, device="cpu")
    with evaluating(flow):
        for draw in range(noise_draws):
            x = continued(noisy(flow, picture, seed, draw), flow.divisor)
            strips = tiled(flow, memory=memory).bijection
            z, terms = strips.pointwise_log_det(x, flow.embed_context(context, 1))
            del x
            for rows in chunks(height, ROWS):
                nats = terms[:, :, rows] + prior_map(flow.prior, z[:, :, rows])
                total[rows] += nats.double().sum(1)[0, :, :width].cpu()
    return total / noise_draws


def noisy(flow: Flow, picture: Pixels, seed: int, draw: int) -> Tensor:
    """x = v + u, (1, C, H, W), of a picture (H, W, C), on the flow's device."""
    pixels = np.array(channels_first(picture[None]))
    indices = [zlib.crc32(pixels.tobytes())]
    noise = uniform(pixels.shape[1:], seed, Purpose.EVALUATE, indices=indices, round=draw)
    state = float64_like(flow)
    if pixels.size > MOST_IN_FLOAT64:
        state = state.float()
    return dequantize(torch.from_numpy(pixels), noise.to(state.dtype)).to(state.device)


def continued(x: Tensor, divisor: int) -> Tensor:
    """x, (B, C, H, W), continued by its mirror image until the divisor divides both sides."""
    for axis in (2, 3):
        side = x.shape[axis]
        if missing := -side % divisor:
            # 0 1 2 ... n-1 n-1 ... 1 0 0 1 2 ...
            there_and_back = torch.arange(side + missing, device=x.device) % (2 * side)
            x = x.index_select(axis, torch.minimum(there_and_back, 2 * side - 1 - there_and_back))
    return x


CHUNK = 16  # images, after which a score is known
NUMBERS = 2**24  # of pixels in memory together
FEW_STRIPS = 64
LITTLE = 0.5  # of the pixels


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


def fast_error(
    flow: Flow, images: "Opened", scores: Sequence[Score | ClassScore], **how: Any
) -> float:
    """The largest error, in bits/dim, of the first few scores made with `realnvp.fast(flow)`.

    how: what `score` was given.
    """
    exact = score(flow, images[:COMPARED], **how)
    return max(
        abs(a.bits_per_dim - b.bits_per_dim) for a, b in zip(exact, scores[:COMPARED], strict=True)
    )


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The paths, with the image files of a folder in its place; ValueError if there are none."""
    files = [file for path in paths for file in pictures_of(path)]
    if not files:
        raise ValueError(f"{', '.join(map(str, paths))}: no image files in it")
    return files


def score(
    flow: Flow,
    images: "Opened",
    *,
    noise_draws: int = 1,
    seed: int = 0,
    report: Report | None = None,
    known: Callable[[str, float, float], None] | None = None,
) -> Sequence[Score | ClassScore]:
    """Score image files: log-density, bits/dim, rank. Each image is scored whole.

    Of a flow given classes also the most likely class and its probability.

    noise_draws: log p is averaged over them.
    seed: of the noise. An image's noise is a function of the seed and its pixels alone.
    report: told how many are done.
    known: told the path, log-density and bits/dim of each image, as soon as they are known.
    """
    names = flow.condition.names if isinstance(flow.condition, Classes) else ()
    scores: list[tuple[str, float, float]] = []
    classes: list[tuple[str, float]] = []
    for chunk in chunks(len(images), images.at_once, report):
        read = [*images[chunk]]
        strips = partial(_tell_strips, report, chunk.start)
        density = partial(_nats, flow, read, noise_draws=noise_draws, seed=seed, report=strips)
        if isinstance(flow.condition, Classes):
            joint = flow.condition.joint([density(context=c) for c in range(len(names))])
            nats = joint.logsumexp(1)
            shares, likeliest = joint.softmax(1).max(1)
            classes += zip([names[i] for i in likeliest], shares.tolist(), strict=True)
        else:
            nats = density()
        for file, value, image in zip(images.files[chunk], nats.tolist(), read, strict=True):
            scores.append((str(file), value, in_bits_per_dim(value, image.shape)))
            if known:
                known(*scores[-1])
    ranks = ranked([nats for _, nats, _ in scores])
    ordered = [Score(*entry, rank) for entry, rank in zip(scores, ranks, strict=True)]
    if not classes:
        return ordered
    return [ClassScore(*entry, *found) for entry, found in zip(ordered, classes, strict=True)]


def _tell_strips(report: Report | None, first: int, number: int, done: int, total: int) -> None:
    """Say how far a large image is, beside the images that are done."""
    if report and total > FEW_STRIPS:
        report(first + number, f"strip {done}/{total}")


def _nats(
    flow: Flow,
    images: Sequence[Pixels],
    *,
    noise_draws: int,
    seed: int,
    report: Callable[[int, int, int], None],
    context: int | None = None,
) -> Tensor:
    """log p of images, (C, H, W) each: in batches where all have the training's size."""
    if all(image.shape == config_of(flow).shape for image in images):
        return log_probs(
            flow,
            np.stack(images),
            noise_draws=noise_draws,
            seed=seed,
            indices=[zlib.crc32(image.tobytes()) for image in images],
            context=context,
        )
    of_class = flow if context is None else flow.condition_on(context)
    return torch.stack(
        [
            picture_map(
                of_class,
                image.transpose(1, 2, 0),
                noise_draws=noise_draws,
                seed=seed,
                report=partial(report, number),
            ).sum()
            for number, image in enumerate(images)
        ]
    )


class Opened(Sequence[Pixels]):
    """Image files as a sequence of (C, H, W), read when they are asked for.

    kept: the share of the pixels of all files that is left after they were brought to one size.
    at_once: how many may be in memory together.
    """

    def __init__(
        self,
        files: Sequence[Path],
        read: Callable[[Path], Pixels],
        *,
        kept: float = 1.0,
        at_once: int = CHUNK,
    ) -> None:
        self.files, self._read, self.kept, self.at_once = files, read, kept, at_once

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return Opened(self.files[which], self._read, at_once=self.at_once)
        return self._read(self.files[which])

    def __iter__(self) -> Iterator[Pixels]:
        return map(self._read, self.files)


def open_images(
    flow: Flow, files: Sequence[Path], *, resize: bool = False, reading: DecodeOptions = AS_FOUND
) -> Opened:
    """The images of files, as `score` takes them.

    resize: bring each to the flow's size: scale the smallest side, cut the middle.
    reading: what to do with transparent pixels, other colours and depths, if not as in training.

    ValueError names all files that cannot be read.
    """
    data = config_of(flow).images
    shape, levels = config_of(flow).shape, config_of(flow).levels
    reading = data.decode_options.but(reading)

    def whole(file: Path) -> Pixels:
        pixels = read_image(file, reading)
        check_fit(pixels, channels=shape[0], levels=levels, name=file)
        return pixels

    def read(file: Path) -> Pixels:
        pixels = whole(file)
        if resize or data.resize:
            pixels = to_size(pixels, resize=shape[1:2] if shape[1] == shape[2] else shape[1:])
        return np.ascontiguousarray(channels_first(pixels[None])[0])

    def look(file: Path) -> int | RefusedImage:
        try:
            return whole(file).size
        except RefusedImage as refused:
            return refused
        except ValueError as error:
            return RefusedImage(file, str(error))

    looks = [*in_threads(look, files)]
    if refused := [found for found in looks if isinstance(found, RefusedImage)]:
        raise by_reason(refused)
    sizes = [found for found in looks if isinstance(found, int)]
    if resize or data.resize:
        return Opened(files, read, kept=len(files) * math.prod(shape) / sum(sizes))
    return Opened(files, read, at_once=max(1, min(CHUNK, NUMBERS // max(sizes))))


def dropped(images: Opened) -> str:
    """A caution where bringing images to one size leaves few of their pixels; '': most are left."""
    if images.kept >= LITTLE:
        return ""
    return (
        f"--resize drops {100 * (1 - images.kept):.3g} % of the pixels, and what is odd with them; "
        "without it images are scored whole"
    )


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
        rows, columns = read_table(file, config.table.columns)
        if len(columns) != width:
            raise ValueError(
                f"{file}: {count_of(len(columns), 'column')}, but the flow was trained on {width}"
            )
        context = read_context(file, config.table) if config.table.context_columns else None
        nats += log_probs(flow, rows, context=context).tolist()
        places += [(str(file), i + 1) for i in range(len(rows))]
    return [
        RowScore(*place, value, rank)
        for place, value, rank in zip(places, nats, ranked(nats), strict=True)
    ]


def ranked(nats: list[float]) -> list[int]:
    """1 for the least likely. NaN counts as the least likely."""
    order = sorted(range(len(nats)), key=lambda i: (not math.isnan(nats[i]), nats[i]))
    ranks = dict(zip(order, range(1, len(order) + 1), strict=True))
    return [ranks[i] for i in range(len(nats))]
