"""The run that is drawn, and what came of it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from realnvp.config import Config
from realnvp.data import Dataset, Split, channels_first, splits_of_run, to_pixels
from realnvp.evaluation import latent
from realnvp.evaluation.likelihood import View, several_views, views_of
from realnvp.figures.grids import Array, Picture, Pixels, grid
from realnvp.flows.flow import Flow
from realnvp.io.run_dir import RunDir
from realnvp.progress import chunks
from realnvp.random import Purpose, generator


class Drawing(NamedTuple):
    """One picture, and what was drawn."""

    name: str
    picture: Picture
    arrays: dict[str, Array]


@dataclass
class TrainedRun:
    """The run that is drawn: a flow in eval mode, its data, and what figures need of both.

    seed: of all that is chosen or drawn at random.
    given: of a flow given classes: the class of all data, and of the flow that is drawn.
    """

    flow: Flow
    config: Config
    folder: Path
    seed: int
    say: Callable[[str], None] = lambda words: None
    """Told what is being done."""
    context: str | None = None
    conditional: Flow | None = None
    """The flow that is given classes, of which `flow` is p(x | given)."""

    @cached_property
    def whole(self) -> Dataset:
        """The run's data, of all classes."""
        splits = splits_of_run(self.folder, self.config)
        RunDir(self.folder).warn_of_changed_data(splits.folder, splits.sha256)
        return splits

    @cached_property
    def splits(self) -> Dataset:
        """The run's data, of the class that is drawn."""
        if self.context is None:
            return self.whole
        return replace(
            self.whole,
            splits={split: self.whole.of_class(split, self.context) for split in self.whole.splits},
            groups=None,
            labels=None,
        )

    def of(self, flow: Flow, context: str | None) -> None:
        """Draw p(x | given) of a flow that is given classes; None: the most frequent class."""
        self.context = context or self.whole.most_frequent
        self.conditional, self.flow = flow, flow.condition_on(self.context)

    def some(self, images: Split, count: int) -> Pixels:
        """Choose some of the images by the seed, in their order: (count, H, W, C).

        All where there are no more.
        """
        rng = generator(self.seed, Purpose.CHOICE)
        return np.array(
            images[np.sort(rng.choice(len(images), min(count, len(images)), replace=False))]
        )

    def too_few(self, wanted: str, found: int) -> ValueError:
        """The error that a figure lacks images."""
        of_class = "" if self.context is None else f" of class {self.context}"
        return ValueError(f"needs {wanted}, the run has {found}{of_class}")

    def encoded(self, images: Pixels) -> Tensor:
        """z of images, (N, H, W, C), at the centres of their bins."""
        return latent.encode(
            self.flow,
            latent.centres(torch.from_numpy(channels_first(images))),
            report=self.telling("encode", len(images)),
        )

    def views(self) -> list[View]:
        """The views of an image that training showed; none where it showed the image alone."""
        data, shape = self.config.data, self.splits.shape
        return views_of(data, shape) if several_views(data, shape) else []

    def pixels(self, x: Tensor) -> Pixels:
        """x in data units, (N, C, H, W), as uint8 (N, H, W, C).

        Warns of images that are not finite, whose bad pixels become 0.
        """
        if bad := int((~x.isfinite()).flatten(1).any(1).sum()):
            warnings.warn(f"{bad} of {len(x)} decoded images are not finite", stacklevel=2)
        return to_pixels(x, levels=self.config.levels)

    def sampled(self, count: int, *, temperature: float = 1.0, factor: int = 1) -> Pixels:
        """Samples, uint8 (N, H, W, C).

        temperature: of the latents.
        factor: how many times as high and wide as training's images; the larger, the fewer at once.
        """
        shape = latent.extrapolated(self.config.shape, factor)
        how: dict[str, Any] = {"temperature": temperature, "seed": self.seed}
        parts = (
            self.flow.sample(chunk.stop - chunk.start, shape, first=chunk.start, **how)
            for chunk in chunks(
                count,
                max(1, 64 // factor**2),
                self.telling(f"{shape[1]}x{shape[2]} sample", count),
            )
        )
        return np.concatenate([self.pixels(x) for x in parts])

    def grid(self, images: Pixels, **words: Any) -> Picture:
        """A grid of images with the run's grey levels."""
        return grid(images, levels=self.config.levels, **words)

    def telling(self, words: str, total: int) -> Callable[[int], None]:
        """A function that tells how many are done."""
        return lambda done: self.say(f"{words} {done}/{total}")
