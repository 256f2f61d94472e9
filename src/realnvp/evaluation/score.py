"""Log-densities of image files, each scored whole, and of the rows of tables."""

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp.config.fields import DecodeOptions
from realnvp.config.units import in_bits_per_dim
from realnvp.data import channels_first, read_image, read_table, to_size
from realnvp.data.folder import image_files
from realnvp.data.images import check_fit, scan_files
from realnvp.data.tables import read_context
from realnvp.evaluation.likelihood import log_probs, noisy
from realnvp.flows.context import Classes
from realnvp.flows.copies import tiled
from realnvp.flows.flow import Flow, batch_that_fits, config_of, evaluating, pointwise_log_prob
from realnvp.progress import track

Image = NDArray[Any]
"""(C, H, W), uint8 or uint16."""
MAX_FLOAT64_SIZE = 2**23  # entries of x; larger images are computed in float32
COMPARED = 16  # scores of a fast flow that are compared with those of the flow itself


@dataclass(frozen=True)
class Score:
    """The score of an image, or of a row of a table; fields that do not apply are None."""

    path: str
    log_prob: float
    """Nats; of a row in the units of its columns."""
    row: int | None = None
    """1 is the first row of a table after its header."""
    bits_per_dim: float | None = None
    likeliest_class: str | None = None
    class_probability: float | None = None
    score: float | None = None
    """Anomaly score: lower is more anomalous."""
    p_value: float | None = None
    anomalous: bool | None = None
    box: tuple[int, int, int, int] | None = None
    """The most anomalous region: left, top, right, bottom, in pixels."""
    rank: int = 0
    """1 is the most anomalous, without an anomaly score the least likely."""


class ImageFiles(Sequence[Image]):
    """Image files as a sequence of (C, H, W), each decoded when it is indexed."""

    def __init__(
        self, flow: Flow, paths: Iterable[Path], *, decode: DecodeOptions, resize: bool = False
    ) -> None:
        """Find the files.

        paths: image files, and folders of them.
        decode: options other than those of the training.
        resize: bring each image to the size of the training images.
        ValueError names all files that cannot be decoded, or that do not fit the flow.
        """
        self.config = config_of(flow)
        self.decode = self.config.images.decode_options.but(decode)
        self.resize = resize or self.config.images.resize is not None
        self.files = [file for path in paths for file in image_files(path)]
        scan_files(range(len(self)), lambda index: self[index].shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        file, shape = self.files[index], self.config.shape
        pixels = read_image(file, self.decode)
        check_fit(pixels, channels=shape[0], levels=self.config.levels, name=file)
        if self.resize:
            pixels = to_size(pixels, shape[1:2] if shape[1] == shape[2] else shape[1:])
        return np.ascontiguousarray(channels_first(pixels[None])[0])


def score_images(
    flow: Flow, images: ImageFiles, *, noise_draws: int = 1, seed: int = 0
) -> list[Score]:
    """Score image files of any size; log p is averaged over draws of the dequantization noise."""
    scores: list[Score] = []
    files = iter(images.files)
    for pixels in batches(track(images, "images")):
        for joint in _log_joint(flow, pixels, noise_draws=noise_draws, seed=seed):
            nats = joint.logsumexp(0).item()
            bits = in_bits_per_dim(nats, pixels.shape[1:])
            score = Score(str(next(files)), nats, bits_per_dim=bits)
            if isinstance(flow.condition, Classes):
                p, c = joint.softmax(0).max(0)
                name = flow.condition.names[int(c)]
                score = replace(score, likeliest_class=name, class_probability=p.item())
            scores.append(score)
    return ranked(scores)


def score_rows(flow: Flow, files: Iterable[Path]) -> list[Score]:
    """Score the rows of tables; their columns are found by name."""
    data = config_of(flow).table
    scores: list[Score] = []
    for file in files:
        rows, _ = read_table(file, data.columns)
        context = read_context(file, data) if data.context_columns else None
        nats = log_probs(flow, rows, context=context).tolist()
        scores += [Score(str(file), value, row=row) for row, value in enumerate(nats, 1)]
    return ranked(scores)


def ranked(scores: Sequence[Score]) -> list[Score]:
    """The scores with their ranks; a NaN ranks first."""

    def key(index: int) -> tuple[bool, float]:
        score = scores[index]
        value = score.log_prob if score.score is None else score.score
        return (not math.isnan(value), value)

    order = sorted(range(len(scores)), key=key)
    ranks = {index: rank for rank, index in enumerate(order, 1)}
    return [replace(score, rank=ranks[index]) for index, score in enumerate(scores)]


def fast_error(flow: Flow, images: ImageFiles, scores: Sequence[Score], **how: Any) -> float:
    """The largest error in bits/dim of the first scores of `Flow.fast`.

    how: the arguments of `score_images`.
    """
    errors = []
    for score, image in zip(scores[:COMPARED], images, strict=False):
        exact = _log_joint(flow, image[None], **how).logsumexp(1).item()
        errors.append(abs(in_bits_per_dim(score.log_prob - exact, image.shape)))
    return max(errors)


def batches(images: Iterable[Image]) -> Iterator[NDArray[Any]]:
    """(B, C, H, W): consecutive images of one size, as many as fit into memory."""
    for shape, alike in groupby(images, lambda image: image.shape):
        while batch := [*islice(alike, batch_that_fits(shape))]:
            yield np.stack(batch)


def dequantized(flow: Flow, pixels: NDArray[Any], *, seed: int, draw: int) -> Tensor:
    """x = v + u of images (B, C, H, W), mirrored at the right and below to sizes the flow takes.

    The noise u is a function of the seed, the draw and an image's own pixels.
    """
    indices = [zlib.crc32(image.tobytes()) for image in pixels]
    single = pixels[0].size > MAX_FLOAT64_SIZE
    return mirror_pad(noisy(flow, pixels, seed, indices, draw, single=single), flow.divisor)


def mirror_pad(x: Tensor, divisor: int) -> Tensor:
    """x, (B, C, H, W), continued by its mirror image until the divisor divides both sides."""
    for axis in (2, 3):
        side = x.shape[axis]
        if missing := -side % divisor:
            # 0 1 2 ... n-1 n-1 ... 1 0 0 1 2 ...
            there_and_back = torch.arange(side + missing, device=x.device) % (2 * side)
            x = x.index_select(axis, torch.minimum(there_and_back, 2 * side - 1 - there_and_back))
    return x


def encode(
    flow: Flow, x: Tensor, size: Sequence[int], context: Any = None
) -> tuple[Tensor, Tensor]:
    """z of padded images x, and log p in nats, (B,), of their upper left part of this size."""
    height, width = size
    c = flow.embed_context(context, x.shape[0])
    z, terms = tiled(flow).bijection.pointwise_log_det(x, c)
    nats = pointwise_log_prob(flow.prior, z) + terms
    return z, nats[:, :, :height, :width].flatten(1).sum(1)


def log_joint(flow: Flow, x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, K): log p(x | c) + log p(c) of each class; (B, 1): log p(x) of a flow without classes."""
    if not isinstance(flow.condition, Classes):
        return encode(flow, x, size)[1][:, None]
    classes = range(len(flow.condition.names))
    return flow.condition.joint([encode(flow, x, size, c)[1] for c in classes])


def _log_joint(flow: Flow, pixels: NDArray[Any], *, noise_draws: int, seed: int) -> Tensor:
    """`log_joint` of images, averaged over draws of the noise, on the CPU."""
    draws = []
    with evaluating(flow):
        for draw in range(noise_draws):
            x = dequantized(flow, pixels, seed=seed, draw=draw)
            draws.append(log_joint(flow, x, pixels.shape[2:]))
    return torch.stack(draws).mean(0).cpu().double()
