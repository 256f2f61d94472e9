"""Figures of a flow of images: the paper's, and those that show whether a density can be trusted.

Each figure is a generator of `Drawing` from a `TrainedRun`.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from realnvp.bijections.base import float64_like
from realnvp.config.fields import Config
from realnvp.data.dataset import Dataset, channels_first, dequantize, to_pixels
from realnvp.data.prepared import splits_of_run
from realnvp.evaluation import latent
from realnvp.evaluation.likelihood import in_bits_per_dim, log_probs, unit_of
from realnvp.figures import plots
from realnvp.figures.grids import Array, Picture, grid, joined
from realnvp.flows.flow import Flow
from realnvp.io.files import DamagedError
from realnvp.io.run_dir import RunDir
from realnvp.random import Purpose, generator, uniform

COLUMNS = 10
TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0)
EXAMINED = 256  # test images whose latents are shown
SAMPLED = 128  # samples, and as many test images, whose nearest training images are found
Entry = dict[str, float | None]
"""A line of metrics.jsonl; null is a number that is not finite."""


class Drawing(NamedTuple):
    """One picture, and the arrays it shows."""

    name: str
    picture: Picture
    arrays: dict[str, Array]


@dataclass
class TrainedRun:
    """A flow in eval mode with its data.

    seed: of all choices and samples.
    class_name: of a class-conditional flow: the class of `flow` and `splits`.
    """

    flow: Flow
    config: Config
    folder: Path
    seed: int = 0
    class_name: str | None = None
    conditional: Flow | None = None
    """The class-conditional flow, where `flow` is p(x | class_name)."""

    @cached_property
    def whole(self) -> Dataset:
        """The data of all classes."""
        data = splits_of_run(self.folder, self.config)
        RunDir(self.folder).check_data(data.folder, data.sha256)
        return data

    @cached_property
    def splits(self) -> Dataset:
        """The data of `class_name`."""
        if self.class_name is None:
            return self.whole
        splits = {name: self.whole.of_class(name, self.class_name) for name in self.whole.splits}
        return replace(self.whole, splits=splits, groups=None, labels=None)

    def condition_on(self, class_name: str | None) -> None:
        """Draw p(x | class); None: of the most frequent class."""
        self.class_name = class_name or self.whole.most_frequent
        self.conditional, self.flow = self.flow, self.flow.condition_on(self.class_name)

    def some(self, split: str, count: int, *, at_least: int = 1) -> Array:
        """Choose up to count images or rows of a split by the seed, in their order."""
        data = self.splits.splits[split]
        if len(data) < at_least:
            raise ValueError(f"the {split} split has {len(data)} examples, {at_least} are needed")
        return np.array(data[self.chosen(len(data), count)])

    def chosen(self, total: int, count: int) -> Array:
        """Ascending indices of the examples that `some` chooses."""
        rng = generator(self.seed, Purpose.CHOICE)
        return np.sort(rng.choice(total, min(count, total), replace=False))

    def encoded(self, images: Array) -> Tensor:
        """z of images, (N, H, W, C), at the centers of their bins."""
        return latent.encode(self.flow, torch.from_numpy(channels_first(images)).float() + 0.5)

    def pixels(self, x: Tensor) -> Array:
        """x in data units, (N, C, H, W), as integers (N, H, W, C); 0 where x is not finite."""
        if bad := int((~x.isfinite()).flatten(1).any(1).sum()):
            warnings.warn(f"{bad} of {len(x)} decoded images are not finite", stacklevel=2)
        return to_pixels(x, levels=self.config.levels)

    def sampled(self, count: int, *, temperature: float = 1.0, factor: int = 1) -> Array:
        """Samples, (N, H, W, C), of `factor` times the height and width of the training images."""
        channels, height, width = self.config.shape
        shape = channels, factor * height, factor * width
        return self.pixels(self.flow.sample(count, shape, temperature=temperature, seed=self.seed))

    def grid(self, images: Array, **texts: Any) -> Picture:
        """A grid of images with the run's gray levels."""
        return grid(images, levels=self.config.levels, **texts)


def samples(run: TrainedRun) -> Iterator[Drawing]:
    """Data beside samples (figures 5, 7-11), and the same latents at temperatures from 0.6 to 1."""
    data, drawn = run.some("test", 64), run.sampled(64)
    picture = joined([run.grid(data, title="data"), run.grid(drawn, title="samples")])
    yield Drawing("samples", picture, {"data": data, "samples": drawn})
    rows = np.concatenate([run.sampled(COLUMNS, temperature=t) for t in TEMPERATURES])
    left = [f"{t:.1f}" for t in TEMPERATURES]
    picture = run.grid(rows, columns=COLUMNS, side=96, title="temperature", left=left)
    yield Drawing("samples-temperature", picture, {"samples": rows})


def classes(run: TrainedRun) -> Iterator[Drawing]:
    """A row for each class: data, and samples that have the same latents in each row."""
    flow, data, white = run.conditional, run.whole, run.config.levels - 1
    assert flow is not None
    names = data.class_names or ()
    drawn = np.stack(
        [run.pixels(flow.sample(COLUMNS, context=name, seed=run.seed)) for name in names]
    )
    known = np.full_like(drawn, white)
    for row, name in zip(known, names, strict=True):
        images = data.of_class("train", name)[:COLUMNS]
        row[: len(images)] = images
    left, title = [name[:24] for name in names], "samples, same latents in a column"
    panels = [
        run.grid(np.concatenate([*known]), columns=COLUMNS, title="data", left=left),
        run.grid(np.concatenate([*drawn]), columns=COLUMNS, title=title),
    ]
    yield Drawing("classes", joined(panels), {"samples": drawn})


def manifold(run: TrainedRun) -> Iterator[Drawing]:
    """The images on the grid that four images span (eq 14, figures 6, 12-16)."""
    split = "train" if run.config.data.set == "celeba" else "validation"  # figure 13
    found = latent.manifold(run.encoded(run.some(split, 4, at_least=4)))
    images = run.pixels(latent.decode(run.flow, found.z.flatten(0, 1)))
    picture = run.grid(images, columns=8, side=128, red=found.corners)
    yield Drawing("manifold", picture, {"images": images, "corners": np.array(found.corners)})


def extrapolation(run: TrainedRun) -> Iterator[Drawing]:
    """Samples of the training size, 2 and 10 times as large, at one pixel size (figures 17-21)."""
    pictures, arrays = [], dict[str, Array]()
    for factor, count, columns in ((1, 12, 4), (2, 6, 2), (10, 1, 1)):
        images = arrays[f"x{factor}"] = run.sampled(count, factor=factor)
        title = f"{images.shape[1]}x{images.shape[2]}"
        pictures.append(run.grid(images, columns=columns, side=96 * factor, title=title))
    picture = joined([joined(pictures[:2], down=True), pictures[2]])
    yield Drawing("extrapolation", picture, arrays)


def compression(run: TrainedRun) -> Iterator[Drawing]:
    """Images from the coarsest 100, 50, 25, ... percent of their latents (figures 22-26).

    The rest of the latents is drawn again (appendix D).
    """
    num_scales = run.config.model.num_scales or 1
    if num_scales == 1:
        raise ValueError("compression: needs two scales, the flow has one")
    z, levels = run.encoded(run.some("validation", 16)), []
    for level in range(num_scales):
        keep = latent.kept(*z.shape[2:], num_scales=num_scales, level=level)
        mixed = latent.compress(z, keep, run.flow.prior, seed=run.seed, indices=range(len(z)))
        levels.append(run.pixels(latent.decode(run.flow, mixed)))
    table = np.stack(levels, 1)  # (images, levels, H, W, C)
    fractions = 0.5 ** np.arange(num_scales)
    above = [f"{100 * fraction:g} %" for fraction in fractions]
    blocks = np.array_split(table, min(max(2, 8 // num_scales), len(table)))
    how: dict[str, Any] = {"columns": num_scales, "side": 96, "above": above}
    picture = joined([run.grid(np.concatenate([*block]), **how) for block in blocks])
    yield Drawing("compression", picture, {"images": table, "fractions": fractions})


def latents(run: TrainedRun) -> Iterator[Drawing]:
    """Show whether a density can be trusted.

    Compare z with N(0, 1), as a whole and at each pixel; show the images of extreme density, the
    bits of each pixel, and the training images nearest to samples.
    """
    images = run.some("test", EXAMINED)
    pixels = torch.from_numpy(channels_first(images))
    noise = uniform(pixels.shape[1:], run.seed, Purpose.EVALUATE, indices=range(len(pixels)))
    x = dequantize(pixels, noise)
    z = latent.encode(run.flow, x).cpu()
    scales = latent.by_scale(z, run.config.model.num_scales or 1)
    named = {f"scale {i}": values for i, values in enumerate(scales)}
    yield Drawing("latents", plots.latents(named), {"z": z.numpy()})
    mean, deviation = z.mean((0, 1)).numpy(), z.std((0, 1), correction=0).numpy()
    arrays = {"mean": mean, "deviation": deviation}
    yield Drawing("latents-maps", plots.maps(mean, deviation), arrays)
    yield _pixel_bits(run, images[: 2 * COLUMNS], x[: 2 * COLUMNS])
    bits = in_bits_per_dim(log_probs(run.flow, pixels, seed=run.seed), pixels.shape[1:]).numpy()
    yield _extremes(run, images, bits)
    yield from _neighbors(run)


def _pixel_bits(run: TrainedRun, images: Array, x: Tensor) -> Drawing:
    """Test images above the bits of each pixel, whose mean is bits/dim."""
    from matplotlib import colormaps

    nats = run.flow.pixel_log_prob(x.to(float64_like(run.flow))).cpu().numpy()
    bits = -nats / (math.log(2) * x.shape[1])
    low, high = np.quantile(bits, [0.02, 0.98])
    colored = 255 * colormaps["YlOrRd"]((bits - low) / (high - low + 1e-12))[..., :3]
    title = f"bits/dim of each pixel: yellow {low:z.1f}, red {high:z.1f}"
    pictures = []
    for row in range(0, len(images), COLUMNS):
        part = slice(row, row + COLUMNS)
        pictures += [
            run.grid(images[part], columns=COLUMNS, side=96, title="" if row else title),
            grid(colored[part], levels=256, columns=COLUMNS, side=96),
        ]
    return Drawing("latents-bits", joined(pictures, down=True, gap=6), {"bits_per_dim": bits})


def _extremes(run: TrainedRun, images: Array, bits: Array) -> Drawing:
    """The images with the fewest and with the most bits/dim."""
    order, pictures, arrays = np.argsort(bits), [], dict[str, Array]()
    for name, chosen in (("fewest", order[:20]), ("most", order[::-1][:20])):
        title, under = f"{name} bits/dim", [f"{value:.2f}" for value in bits[chosen]]
        texts: dict[str, Any] = {"title": title, "under": under}
        pictures.append(run.grid(images[chosen], columns=COLUMNS, side=96, **texts))
        arrays |= {name: images[chosen], f"{name}-bits_per_dim": bits[chosen]}
    return Drawing("latents-extremes", joined(pictures, down=True), arrays)


def _neighbors(run: TrainedRun) -> Iterator[Drawing]:
    """Show whether the flow memorized training images.

    Show the samples that are nearest to a training image; compare the distances of samples and of
    test images to their nearest training image.
    """
    train, test, drawn = run.splits.train, run.some("test", SAMPLED), run.sampled(SAMPLED)
    queries = torch.from_numpy(np.concatenate([drawn, test]))
    found = latent.nearest_neighbors(queries, train, augment=run.config.images.augment)
    near, normal = np.split(found.distance.numpy(), [len(drawn)])
    order = np.argsort(near)[:20]
    pairs = drawn[order], np.stack([train[i] for i in found.nearest.numpy()[order]])
    rows = [images[at : at + COLUMNS] for at in (0, COLUMNS) for images in pairs]
    left, title = ["sample", "training"] * 2, "samples nearest to a training image"
    picture = run.grid(np.concatenate(rows), columns=COLUMNS, side=96, title=title, left=left)
    yield Drawing("latents-neighbors", picture, {"samples": pairs[0], "training": pairs[1]})
    picture = plots.distances({"samples": near, "test images": normal})
    yield Drawing("latents-distances", picture, {"samples": near, "test": normal})


def curves(run: TrainedRun) -> Iterator[Drawing]:
    """Bits/dim, or nats a row, of train and validation over steps and over time."""
    path, unit, parser = run.folder / "metrics.jsonl", unit_of(run.config), TypeAdapter(Entry)
    try:
        entries = [parser.validate_json(line) for line in path.read_bytes().splitlines()]
    except ValueError:
        raise DamagedError(f"{path}: damaged") from None
    train = _series(entries, value=f"train_{unit.key}")
    value, error = f"validation_{unit.key}", "validation_standard_error"
    validation = _series(entries, value=value, error=error)
    if not len(train["value"]) or not len(validation["value"]):
        raise ValueError(f"{path}: no {unit.words} yet")
    arrays = {f"train-{key}": values for key, values in train.items()}
    arrays |= {f"validation-{key}": values for key, values in validation.items()}
    yield Drawing("curves", plots.curves(train, validation, unit.words), arrays)


def _series(entries: list[Entry], **keys: str) -> dict[str, Array]:
    """Step, seconds and these keys of the entries with a finite value; NaN where one is null."""
    keys |= {"step": "step", "seconds": "seconds"}
    chosen = [entry for entry in entries if entry.get(keys["value"]) is not None]
    return {name: np.array([e.get(key) for e in chosen], float) for name, key in keys.items()}
