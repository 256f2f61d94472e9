"""Detector: is an image odd, where, and how sure?"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from realnvp.anomaly.normal import (
    FALSE_ALARMS,
    MOST,
    NormalModel,
    TailFunction,
    p_values,
    threshold,
    usual,
)
from realnvp.anomaly.statistics import CELL, Images, Pass, box, passes, smoothed
from realnvp.config import TableData
from realnvp.config.errors import ParameterError
from realnvp.config.fields import AT_LEAST_ONE, BETWEEN_0_AND_1, SEED, check_number
from realnvp.config.units import in_bits_per_dim
from realnvp.flows.flow import Flow, config_of
from realnvp.io.files import write_safetensors
from realnvp.io.pretrained import below, flow_contents, load_flow, read_model
from realnvp.random import Purpose, generator


@dataclass(frozen=True)
class Settings:
    """The arguments of a saved detector."""

    fpr: float
    noise_draws: int
    seed: int


def _tensors(fitted: "Fitted") -> dict[str, Tensor]:
    """The numbers of a fitted detector, by name."""
    return {
        **{f"places.{name}": tensor for name, tensor in fitted.places._asdict().items()},
        "shares.log_oddness": fitted.shares.log_oddness,
        "shares.log_share": fitted.shares.log_share,
        "normal.bits_per_dim": torch.from_numpy(fitted.bits_per_dim),
        "normal.scores": torch.from_numpy(fitted.scores),
    }


def _fitted(tensors: Mapping[str, Tensor]) -> "Fitted":
    """The inverse of `_tensors`."""
    return Fitted(
        NormalModel(*(tensors[f"places.{name}"] for name in NormalModel._fields)),
        TailFunction(tensors["shares.log_oddness"], tensors["shares.log_share"]),
        tensors["normal.bits_per_dim"].numpy(),
        tensors["normal.scores"].numpy(),
    )


Array = NDArray[Any]
FITTED = 0.25
"""The share of the normal images that says what is usual; the others calibrate."""
ODDEST, SIDE = 0.03, 6
"""An image is as odd as a square of this share of its places, of at most so many a side."""
AROUND = 8.0
"""Standard deviation, in pixels, of the Gaussian that maps are averaged by."""
PLACES = 2**22
"""Of so many normal places at most the shares are."""


class Finding(NamedTuple):
    """What a detector says about one image."""

    log_prob: float
    """Nats."""
    score: float
    """The lower, the odder."""
    p_value: float
    map: Array
    """(H, W), float32: the share of normal places that are odder."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Of the oddest place, as Pillow crops: left, top, right, bottom, in pixels."""
        return box(self.map)


class Fitted(NamedTuple):
    """What a detector knows about normal images."""

    places: NormalModel
    """Of the statistics of a place."""
    shares: TailFunction
    bits_per_dim: Array
    """Of the images that calibrate, in rising order."""
    scores: Array
    """Of the images that calibrate, in rising order."""


class AnomalyDetector:
    """Is an image odd, where, and how sure? Used as scikit-learn's outlier detectors.

        detector = Detector(flow).fit(normal)     # images that training has not seen
        detector.predict(images)                  # (N,): 1, or -1 where odd
        detector.p_values(images)                 # (N,)
        detector.maps(images)                     # (N, H, W): the share of normal places odder

    flow: of images. Given classes: each image is seen given its likeliest class.
    false_alarms: the rate at which `predict` may call normal images odd.
    noise_draws: draws of the dequantization noise; statistics are averaged over them.
    seed: of the noise, and of which normal images say what is usual.

    Images are whole numbers, (N, C, H, W), or a sequence of (C, H, W) of several sizes.

    One pass of the flow gives statistics of each place (`odd/statistics.py`). The further they are
    from the usual, all together (`odd/usual.py`), the odder is the place: what is too likely is
    odd, too. Maps show the mean around each place. An image is as odd as its oddest square.

    A quarter of the normal images says what is usual. The others calibrate: p-values are conformal
    (`odd/conformal.py`), so at most the share `false_alarms` of new normal images is called odd, on
    average over draws of the normal images. For that images must be exchangeable, not pixels; the
    shares in maps describe, they guarantee nothing.
    """

    def __init__(
        self, flow: Flow, *, fpr: float = FALSE_ALARMS, noise_draws: int = 1, seed: int = 0
    ) -> None:
        self.fpr = check_number("false_alarms", fpr, float, BETWEEN_0_AND_1)
        self.noise_draws = check_number("noise_draws", noise_draws, int, AT_LEAST_ONE)
        self.seed = check_number("seed", seed, int, SEED)
        if isinstance(config_of(flow).data, TableData):
            raise ValueError("flow: must be of images; this one is of a table")
        self.flow = flow

    def fit(self, normal: Images, *, report: Callable[[int], None] | None = None) -> Self:
        """Learn from normal images what is usual, and calibrate.

        normal: images that training has not seen. No image can be called odd with fewer than
            `odd.verdicts.images_for(false_alarms)`.
        report: told how many of the images that calibrate are done.
        """
        if not hasattr(normal, "__getitem__"):
            words = f"expected an array or a list of images, got {type(normal).__name__}"
            raise ParameterError("normal", words)
        if len(normal) < 2:
            raise ParameterError("normal", f"at least 2 images are needed, got {len(normal)}")
        order = generator(self.seed, Purpose.CHOICE).permutation(len(normal))
        first, rest = np.split(order, [max(1, int(FITTED * len(normal)))])
        known = usual(part.statistics for part in self._passes(normal[i] for i in first))
        each = max(1, PLACES // len(rest))
        bits, oddness, places = [], [], []
        for images, log_prob, statistics in self._passes((normal[i] for i in rest), report):
            odd = known.oddness(statistics)
            bits.append(in_bits_per_dim(log_prob, images.shape[1:]))
            oddness.append(oddness_of_images(odd))
            around = oddness_around(odd)
            places.append(around.flatten(1)[:, :: 1 + odd[0].numel() // each].flatten())
        self.fitted_ = Fitted(
            known,
            TailFunction.of_places(torch.cat(places)),
            np.sort(torch.cat(bits).cpu().numpy()),
            np.sort(-torch.cat(oddness).cpu().numpy()),
        )
        return self

    def findings(
        self, images: Images, *, report: Callable[[int], None] | None = None
    ) -> Iterator[Finding]:
        """All that there is to say about each image, one after the other, from one pass."""
        return (finding for _, finding in self.examined(images, report=report))

    def examined(
        self, images: Images, *, report: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Array, Finding]]:
        """Each image, (C, H, W), with its finding."""
        known = self.fitted()
        for pixels, log_prob, statistics in self._passes(images, report):
            height, width = pixels.shape[2:]
            odd = known.places.oddness(statistics)
            scores = -oddness_of_images(odd).cpu().numpy()
            chances = p_values(-scores, -known.scores)
            least = torch.finfo(torch.float32).tiny  # of what is not finite the share is 0
            coarse = known.shares.among_normal(oddness_around(odd)).clamp(min=least).log()
            fine = F.interpolate(coarse[:, None], scale_factor=CELL, mode="bilinear")[:, 0]
            shares = fine[:, :height, :width].exp().cpu().numpy()
            for image, *found in zip(
                pixels, log_prob.tolist(), scores.tolist(), chances.tolist(), shares, strict=True
            ):
                yield image, Finding(*found)

    @property
    def threshold(self) -> float:
        """The score below which an image is odd; -inf if there are too few normal images."""
        return -threshold(-self.fitted().scores, self.fpr)

    @property
    def calibrating(self) -> int:
        """How many normal images calibrate."""
        return len(self.fitted().scores)

    def score_samples(self, images: Images) -> Array:
        """(N,): the lower, the odder."""
        return np.array([finding.score for finding in self.findings(images)])

    def p_values(self, images: Images) -> Array:
        """(N,): (1 + how many of the n normal images are at least as odd) / (n + 1)."""
        return np.array([finding.p_value for finding in self.findings(images)])

    def predict(self, images: Images) -> Array:
        """(N,): -1 for odd images, whose p-value is at most `false_alarms`; 1 for the others."""
        return np.where(self.p_values(images) <= self.fpr, -1, 1)

    def maps(self, images: Images) -> Array | list[Array]:
        """(N, H, W), float32: the share of normal places that are odder; small where odd.

        A list if the images have several sizes.
        """
        maps = [finding.map for finding in self.findings(images)]
        return np.stack(maps) if len({found.shape for found in maps}) == 1 else maps

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file that `load` reads, and `load_flow`: flow and detector."""
        tensors, metadata = flow_contents(self.flow)
        numbers = {f"detector.{name}": each for name, each in _tensors(self.fitted()).items()}
        settings = asdict(Settings(self.fpr, self.noise_draws, self.seed))
        write_safetensors(Path(path), tensors | numbers, metadata | {"detector": settings})

    @classmethod
    def load(cls, where: str | Path) -> Self:
        """Load a detector and its flow, from whatever `load_flow` takes.

        ValueError: there is no detector beside the flow.
        """
        tensors, metadata = read_model(where)
        if "detector" not in metadata:
            raise ValueError(f"{where}: no detector beside this flow; Detector(flow).fit makes one")
        detector = cls(load_flow(where), **metadata["detector"])
        detector.fitted_ = _fitted(below("detector", tensors))
        return detector

    def fitted(self) -> Fitted:
        """What was learned of normal images; ValueError: nothing yet."""
        if not hasattr(self, "fitted_"):
            raise ValueError("this Detector is not fitted yet: call fit(normal) first")
        return self.fitted_

    def _passes(
        self,
        images: Iterable[Array | Tensor],
        report: Callable[[int], None] | None = None,
    ) -> Iterator[Pass]:
        return passes(
            self.flow, images, noise_draws=self.noise_draws, seed=self.seed, report=report
        )


def oddness_around(oddness: Tensor) -> Tensor:
    """(B, h, w), float32: the mean oddness around each place."""
    return smoothed(oddness.float().clamp(max=MOST)[:, None], AROUND)[:, 0]


def oddness_of_images(oddness: Tensor) -> Tensor:
    """(B,): how odd each image is: the mean over its oddest square of places."""
    side = min(square_side(oddness[0].numel(), SIDE), *oddness.shape[1:])
    return F.avg_pool2d(oddness[:, None], side, stride=1).flatten(1).amax(1)


def square_side(places: int, most: int) -> int:
    """Of the square that an image of so many places is judged by."""
    return min(most, math.ceil(math.sqrt(ODDEST * places)))
