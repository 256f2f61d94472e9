"""AnomalyDetector: which images are anomalous, at a given false-positive rate, and where."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from realnvp.anomaly.statistics import (
    MAX_DISTANCE,
    PATCH,
    Images,
    NormalModel,
    TailFunction,
    image_statistics,
    most_anomalous_region,
    smooth,
)
from realnvp.config.fields import TableData
from realnvp.evaluation.likelihood import in_bits_per_dim
from realnvp.evaluation.score import Image, Score, ranked
from realnvp.flows.flow import Flow, config_of
from realnvp.io.files import write_safetensors
from realnvp.io.pretrained import below, flow_contents, load_flow, read_model
from realnvp.random import Purpose, generator

Array = NDArray[Any]
BITS = 12  # of the mantissa of a score
REFERENCE = 0.25  # fraction of the normal images that sets the reference; the others calibrate
SQUARE, MAX_SIDE = 0.03, 6  # fraction of an image's patches, and patches a side, that score it
MAP_SMOOTHING = 8.0  # standard deviation, in pixels, of the Gaussian that smooths maps
TAIL_PATCHES = 2**22  # at most so many normal patches set the tail function


class AnomalyDetector:
    """Detect anomalous images and regions; an outlier detector as in scikit-learn.

        detector = AnomalyDetector(flow, fpr=0.01).fit(normal)  # images that training has not seen
        detector.predict(images)     # (N,): 1, or -1 for an anomaly
        detector.p_values(images)    # (N,)
        detector.maps(images)        # (N, H, W): fraction of normal patches more anomalous

    flow: of images; with classes, each image is given its likeliest class.
    fpr: false-positive rate of `predict`.
    noise_draws: draws of the dequantization noise over which statistics are averaged.
    seed: of the noise, and of the split of the normal images.

    Images are uint8 or uint16, (N, C, H, W), or a sequence of (C, H, W) of several sizes.

    The score of a patch is the Mahalanobis distance of its statistics (`patch_statistics`) from
    those of normal images. An image scores as its most anomalous square of patches. A quarter of
    the normal images sets the reference, the others calibrate: p-values are conformal, so the
    false-positive rate is at most `fpr`, on average over draws of the normal images, if new normal
    images are exchangeable with these. Maps carry no guarantee: neighboring patches are dependent.
    """

    reference_: NormalModel
    tail_: TailFunction
    normal_scores_: Array
    """Scores of the images that calibrate."""

    def __init__(
        self, flow: Flow, *, fpr: float = 0.01, noise_draws: int = 1, seed: int = 0
    ) -> None:
        if not 0 < fpr < 1:
            raise ValueError(f"fpr: must be between 0 and 1, got {fpr}")
        if isinstance(config_of(flow).data, TableData):
            raise ValueError("flow: must be of images, not of a table")
        self.flow, self.fpr, self.noise_draws, self.seed = flow, fpr, noise_draws, seed

    def fit(self, normal: Images) -> Self:
        """Set the reference and calibrate, by normal images that training has not seen."""
        if len(normal) < 2:
            raise ValueError(f"normal: needs at least 2 images, got {len(normal)}")
        order = generator(self.seed, Purpose.CHOICE).permutation(len(normal))
        first, rest = np.split(order, [max(1, int(REFERENCE * len(normal)))])
        reference = self._statistics(np.asarray(normal[i]) for i in first)
        self.reference_ = NormalModel.fit(batch.statistics for batch in reference)
        patches_each = max(1, TAIL_PATCHES // len(rest))
        scores, tail = [], []
        for batch in self._statistics(np.asarray(normal[i]) for i in rest):
            distance = self.reference_.distance(batch.statistics)
            scores.append(image_score(distance))
            step = 1 + distance[0].numel() // patches_each
            tail.append(map_distance(distance).flatten(1)[:, ::step].flatten())
        self.tail_ = TailFunction.fit(torch.cat(tail))
        self.normal_scores_ = torch.cat(scores).cpu().numpy()
        return self

    def score_samples(self, images: Images) -> Array:
        """(N,): anomaly scores; lower is more anomalous."""
        return np.array([score.score for score, _ in self.results(images)])

    def p_values(self, images: Images) -> Array:
        """(N,): (1 + number of the n normal images at least as anomalous) / (n + 1)."""
        return p_values(self.score_samples(images), self.normal_scores_)

    def predict(self, images: Images) -> Array:
        """(N,): -1 for anomalies, of a p-value of at most `fpr`, else 1."""
        return np.where(self.p_values(images) <= self.fpr, -1, 1)

    def maps(self, images: Images) -> Array | list[Array]:
        """(N, H, W), float32: fraction of normal patches that are more anomalous.

        A list if the images differ in size.
        """
        maps = [found for _, found in self.results(images)]
        return np.stack(maps) if len({found.shape for found in maps}) == 1 else maps

    def results(
        self, images: Images, paths: Iterable[object] = ()
    ) -> Iterator[tuple[Score, Array]]:
        """The score of each image, and its map. paths: names of the images in their scores."""
        names = iter(paths)
        for batch in self._statistics(images):
            distance = self.reference_.distance(batch.statistics)
            scores = image_score(distance).cpu().numpy()
            chances = p_values(scores, self.normal_scores_)
            maps = self._maps(distance, batch.images.shape[2:])
            columns = batch.log_prob.tolist(), scores.tolist(), chances.tolist(), maps
            for log_prob, score, p_value, found in zip(*columns, strict=True):
                entry = Score(
                    str(next(names, "")),
                    log_prob,
                    bits_per_dim=in_bits_per_dim(log_prob, batch.images.shape[1:]),
                    score=score,
                    p_value=p_value,
                    anomalous=p_value <= self.fpr,
                    box=most_anomalous_region(found),
                )
                yield entry, found

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file with the flow and the detector."""
        tensors, metadata = flow_contents(self.flow)
        fitted = self.reference_._asdict() | self.tail_._asdict()
        fitted["normal_scores"] = torch.from_numpy(self.normal_scores_)
        settings = {"fpr": self.fpr, "noise_draws": self.noise_draws, "seed": self.seed}
        write_safetensors(
            Path(path),
            tensors | {f"detector.{name}": tensor for name, tensor in fitted.items()},
            metadata | {"detector": settings},
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a detector and its flow. ValueError: the file holds no detector."""
        tensors, metadata = read_model(path)
        if "detector" not in metadata:
            raise ValueError(f"{path}: holds no detector")
        detector, fitted = cls(load_flow(path), **metadata["detector"]), below("detector", tensors)
        detector.reference_ = NormalModel(*(fitted[name] for name in NormalModel._fields))
        detector.tail_ = TailFunction(*(fitted[name] for name in TailFunction._fields))
        detector.normal_scores_ = fitted["normal_scores"].numpy()
        return detector

    def _statistics(self, images: Iterable[Image]) -> Any:
        return image_statistics(self.flow, images, noise_draws=self.noise_draws, seed=self.seed)

    def _maps(self, distance: Tensor, size: tuple[int, ...]) -> Array:
        """(B, H, W): fractions of normal patches beyond, interpolated between patches."""
        smallest = torch.finfo(torch.float32).tiny  # of infinite distances the fraction is 0
        fraction = self.tail_.fraction_beyond(map_distance(distance)).clamp(min=smallest)
        log_maps = F.interpolate(fraction.log()[:, None], scale_factor=PATCH, mode="bilinear")
        return log_maps[:, 0, : size[0], : size[1]].exp().cpu().numpy()


def map_distance(distance: Tensor) -> Tensor:
    """(B, h, w), float32: the distance averaged around each patch."""
    return smooth(distance.float().clamp(max=MAX_DISTANCE)[:, None], MAP_SMOOTHING)[:, 0]


def image_score(distance: Tensor) -> Tensor:
    """(B,): minus the mean distance over the most anomalous square of patches."""
    side = square_side(distance.shape[1:])
    return -F.avg_pool2d(distance[:, None], side, stride=1).flatten(1).amax(1)


def square_side(shape: Sequence[int], *, unit: int = 1) -> int:
    """The side of the square that scores a map (h, w) with `unit` entries a patch."""
    return min(MAX_SIDE * unit, math.ceil(math.sqrt(SQUARE * math.prod(shape))), *shape)


def rounded(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores to 12 bits; NaN, the most anomalous, becomes -inf.

    The score of an image differs by some 1e-6 with its batch, since networks are float32. Unequal
    scores of equal images would break the guarantee, which needs their order to be random.
    """
    values = np.asarray(scores, float)
    mantissa, exponent = np.frexp(np.where(np.isnan(values), -np.inf, values))
    return np.ldexp(np.round(np.ldexp(mantissa, BITS)), exponent - BITS)


def p_values(scores: ArrayLike, normal: ArrayLike) -> NDArray[np.float64]:
    """p = (1 + number of the n normal scores that are at most as large) / (n + 1), of each score.

    scores: lower is more anomalous.
    normal: scores of n normal images, which had no part in how scores are computed.

    If an image and the n normal images are exchangeable, P(p <= a) <= a for every a, whatever the
    score (Vovk, Gammerman, Shafer 2005, chapter 2).
    """
    ordered = np.sort(rounded(normal))
    return (1 + np.searchsorted(ordered, rounded(scores), side="right")) / (len(ordered) + 1)


def with_p_values(scores: Sequence[Score], normal: ArrayLike, fpr: float) -> list[Score]:
    """Scores of rows, calibrated by the log-densities of normal rows; sorted and ranked.

    The anomaly score of a row is its log-density.
    """
    chances = p_values([score.log_prob for score in scores], normal).tolist()
    judged = [
        replace(score, score=score.log_prob, p_value=p, anomalous=p <= fpr)
        for score, p in zip(scores, chances, strict=True)
    ]
    return sorted(ranked(judged), key=lambda score: score.rank)
