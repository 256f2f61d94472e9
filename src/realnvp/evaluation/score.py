"""Log-densities of image files, each scored whole, and of the rows of tables."""

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

from realnvp.data.dataset import channels_first
from realnvp.data.folder import image_files
from realnvp.data.images import check_fit, read_image, scan_files, to_size
from realnvp.data.tables import choose_columns, embed, numbers, read_frame
from realnvp.evaluation.likelihood import in_bits_per_dim, log_probs, noisy
from realnvp.flows.context import Classes
from realnvp.flows.copies import tiled
from realnvp.flows.flow import Flow, batch_that_fits, config_of, evaluating, pointwise_log_prob
from realnvp.progress import track

Image = NDArray[Any]
"""(C, H, W), uint8 or uint16."""
MAX_FLOAT64_SIZE = 2**23  # entries of x; larger images are computed in float32


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

    def __init__(self, flow: Flow, paths: Iterable[Path]) -> None:
        """Find image files, and those in folders; they are decoded and resized as in training.

        ValueError names the first file that cannot be decoded, or does not fit the flow.
        """
        self.config = config_of(flow)
        self.files = [file for path in paths for file in image_files(path)]
        scan_files(range(len(self)), lambda index: self[index].shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        file, shape = self.files[index], self.config.shape
        pixels = read_image(file, self.config.images.decode_options)
        check_fit(pixels, channels=shape[0], levels=self.config.levels, name=file)
        if self.config.images.resize is not None:
            pixels = to_size(pixels, shape[1:2] if shape[1] == shape[2] else shape[1:])
        return np.ascontiguousarray(channels_first(pixels[None])[0])


def score_images(
    flow: Flow, images: ImageFiles, *, noise_draws: int = 1, seed: int = 0
) -> list[Score]:
    """Score image files of any size; log p is averaged over draws of the dequantization noise."""
    scores: list[Score] = []
    files = iter(images.files)
    for pixels in batches(track(images, "images")):
        with evaluating(flow):
            xs = (dequantized(flow, pixels, seed=seed, draw=draw) for draw in range(noise_draws))
            draws = torch.stack([log_joint(flow, x, pixels.shape[2:]) for x in xs])
        for joint in draws.mean(0).cpu().double():
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
        frame = read_frame(file)
        rows = numbers(file, frame, choose_columns(file, frame, data.columns))
        context = embed(file, frame, data.context_values) if data.context_columns else None
        nats = log_probs(flow, rows, context=context).tolist()
        scores += [Score(str(file), value, row=row) for row, value in enumerate(nats, 1)]
    return ranked(scores)


def ranked(scores: Sequence[Score]) -> list[Score]:
    """The scores with their ranks, by the anomaly score if there is one; a NaN ranks first."""
    values = [each.log_prob if each.score is None else each.score for each in scores]
    ranks = np.nan_to_num(values, nan=-np.inf, posinf=np.inf).argsort(kind="stable").argsort() + 1
    return [replace(each, rank=int(rank)) for each, rank in zip(scores, ranks, strict=True)]


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
