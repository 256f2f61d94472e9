"""The paper's figures, and those that show whether a density can be trusted, from one trained run."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp import latent
from realnvp.config import Config, nearest
from realnvp.data import Splits, dequantise, quantize, splits_of_run
from realnvp.figures import plots
from realnvp.figures.grids import Pixels, beside, grid, save_png, stacked
from realnvp.flow import Flow
from realnvp.folders import DamagedError, atomic_save
from realnvp.likelihood import evaluating, in_bits_per_dim, log_probs
from realnvp.noise import Purpose, generator, uniform
from realnvp.progress import Report, progress

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Array = NDArray[Any]
TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0)
EXAMINED = 256  # test images whose latents are looked at
SAMPLED = 128  # samples, and as many test images, whose nearest training images are looked for


class Drawing(NamedTuple):
    """One picture, and what was drawn."""

    name: str
    picture: "Picture"
    arrays: dict[str, Array]


@dataclass
class Subject:
    """What is drawn: a flow in eval mode and the run it comes from; the seed decides all that is chosen or drawn at random."""

    flow: Flow
    config: Config
    run: Path
    seed: int
    say: Callable[[str], None] = lambda words: None
    """Told what is being done."""

    @cached_property
    def splits(self) -> Splits:
        """The run's data."""
        return splits_of_run(self.run, self.config)

    def some(self, images: latent.Images, count: int) -> Pixels:
        """So many of the images, (count, H, W, C), chosen by the seed; all where there are no more."""
        rng = generator(self.seed, Purpose.CHOICE)
        return np.array(images[np.sort(rng.choice(len(images), min(count, len(images)), replace=False))])

    def encoded(self, images: Pixels) -> Tensor:
        """z of images, (N, H, W, C), at the centres of their bins."""
        return latent.encode(self.flow, latent.centres(_channels_first(images)), report=self.telling("encode", len(images)))

    @property
    def levels(self) -> int:
        """Grey levels of the run's images."""
        assert self.config.data.levels is not None
        return self.config.data.levels

    def pixels(self, x: Tensor) -> Pixels:
        """(N, H, W, C), uint8, of x in data units; warns of images that are not finite, whose bad pixels become 0."""
        if bad := int((~x.isfinite()).flatten(1).any(1).sum()):
            warnings.warn(f"{bad} of {len(x)} decoded images are not finite", stacklevel=2)
        return quantize(torch.nan_to_num(x), levels=self.levels).permute(0, 2, 3, 1).cpu().numpy()

    def sampled(self, count: int, *, temperature: float = 1.0, factor: int = 1) -> Pixels:
        """Samples, (N, H, W, C); of larger images fewer at a time, so that memory stays bounded."""
        assert self.config.data.shape is not None
        shape, chunk, parts = latent.extrapolated(self.config.data.shape, factor), max(1, 64 // factor**2), []
        for first in range(0, count, chunk):
            n = min(chunk, count - first)
            parts.append(self.pixels(self.flow.sample(n, shape, temperature=temperature, seed=self.seed, first=first)))
            self.say(f"{shape[1]}x{shape[2]} sample {first + n}/{count}")
        return np.concatenate(parts)

    def grid(self, images: Pixels, **words: Any) -> "Picture":
        """A grid of images with the run's grey levels."""
        return grid(images, levels=self.levels, **words)

    def telling(self, words: str, total: int) -> Callable[[int], None]:
        """A function that says how many are done."""
        return lambda done: self.say(f"{words} {done}/{total}")


def draw_figures(
    flow: Flow, run: str | Path, *, only: Sequence[str] = (), seed: int = 0, out: Path | None = None, arrays: bool = False
) -> list[Path]:
    """The files written: figures of a trained run, all or those named in `only`, under RUN/figures or out.

    arrays: also what was drawn, as NAME-ARRAY.npy. ValueError names an unknown figure, or what the run lacks.
    """
    names = _chosen(only)
    assert flow.config is not None
    subject, written, folder = Subject(flow, flow.config, Path(run), seed), [], Path(run, "figures") if out is None else out
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out: {folder} is a file; name a folder")
    with evaluating(flow), progress("figure", len(names)) as report:
        for done, name in enumerate(names):
            subject.say = partial(_say, report, done, name)
            for drawing in FIGURES[name](subject):
                written += _write(drawing, folder, arrays=arrays)
        report(len(names))
    return written


def _say(report: Report, done: int, name: str, words: str) -> None:
    report(done, f"{name}: {words}")


def _chosen(only: Sequence[str]) -> list[str]:
    if unknown := next((name for name in only if name not in FIGURES), None):
        raise ValueError(f"--only: no figure {unknown!r}{nearest(unknown, FIGURES)}; there are {', '.join(FIGURES)}")
    names = [name for name in FIGURES if name in only or not only]
    if {"latents", "curves"} & {*names}:
        import matplotlib  # noqa: F401  # a missing extra is told before anything is computed
    return names


def _write(drawing: Drawing, folder: Path, *, arrays: bool) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{drawing.name}.png"]
    save_png(paths[0], drawing.picture)
    for name, array in drawing.arrays.items() if arrays else ():
        paths.append(folder / f"{drawing.name}-{name}.npy")
        atomic_save(paths[-1], partial(np.save, arr=array))
    return paths


def samples(subject: Subject) -> Iterator[Drawing]:
    """Data beside samples (figures 5, 7-11), and the same latents at temperatures from 0.6 to 1."""
    data, drawn = subject.some(subject.splits.test, 64), subject.sampled(64)
    pair = [subject.grid(images, title=title) for images, title in ((data, "data"), (drawn, "samples"))]
    yield Drawing("samples", beside(pair), {"data": data, "samples": drawn})
    rows = np.concatenate([subject.sampled(10, temperature=temperature) for temperature in TEMPERATURES])
    picture = subject.grid(rows, columns=10, side=96, title="temperature", left=[f"{t:.1f}" for t in TEMPERATURES])
    yield Drawing("samples-temperature", picture, {"samples": rows})


def manifold(subject: Subject) -> Iterator[Drawing]:
    """The images on the grid that four images span (eq 14, figures 6, 12-16)."""
    split = "train" if subject.config.data.set == "celeba" else "validation"  # figure 13
    images = subject.some(getattr(subject.splits, split), 4)
    if len(images) < 4:
        raise ValueError(f"manifold: needs four {split} images, the run has {len(images)}")
    grid = latent.manifold(subject.encoded(images))
    z = grid.z.flatten(0, 1)
    points = subject.pixels(latent.decode(subject.flow, z, report=subject.telling("image", len(z))))
    picture = subject.grid(points, columns=8, side=128, red=grid.corners)
    yield Drawing("manifold", picture, {"images": points, "corners": np.array(grid.corners)})


def extrapolation(subject: Subject) -> Iterator[Drawing]:
    """Samples of the training size, twice and ten times as large, all pixels drawn at one size (figures 17-21)."""
    sizes, pictures = {1: (12, 4), 2: (6, 2), 10: (1, 1)}, []
    drawn = {factor: subject.sampled(count, factor=factor) for factor, (count, _) in sizes.items()}
    for factor, (_, columns) in sizes.items():
        title = "{1}x{2}".format(*drawn[factor].shape)
        pictures.append(subject.grid(drawn[factor], columns=columns, side=96 * factor, title=title))
    arrays = {f"x{factor}": images for factor, images in drawn.items()}
    yield Drawing("extrapolation", beside([stacked(pictures[:2]), pictures[2]]), arrays)


def compression(subject: Subject) -> Iterator[Drawing]:
    """Images from the coarsest 100, 50, 25, ... percent of their latents, the rest drawn again (appendix D, figures 22-26)."""
    images, num_scales = subject.some(subject.splits.validation, 16), subject.config.model.num_scales or 1
    z, shares, columns = subject.encoded(images), latent.shares(num_scales), []
    for level in range(num_scales):
        keep = latent.kept(*z.shape[2:], num_scales=num_scales, level=level)
        mixed = latent.compress(z, keep, subject.flow.prior, seed=subject.seed, indices=range(len(z)))
        columns.append(subject.pixels(latent.decode(subject.flow, mixed)))
    table = np.stack(columns, 1)  # (images, shares, H, W, C)
    words = [f"{100 * share:g} %" for share in shares]
    blocks = np.array_split(table, min(max(2, 8 // num_scales), len(table)))
    pictures = [subject.grid(block.reshape(-1, *images.shape[1:]), columns=num_scales, side=96, above=words) for block in blocks]
    yield Drawing("compression", beside(pictures), {"images": table, "shares": np.array(shares)})


def latents(subject: Subject) -> Iterator[Drawing]:
    """What one looks at to trust a density: z against N(0, 1), where it differs, extreme images, neighbours of samples."""
    images = subject.some(subject.splits.test, EXAMINED)
    x = _channels_first(images)
    noise = uniform(x.shape[1:], subject.seed, Purpose.EVALUATE, indices=range(len(x)))
    z = latent.encode(subject.flow, dequantise(x, noise), report=subject.telling("encode", len(x))).cpu()
    scales = latent.by_scale(z, subject.config.model.num_scales or 1)
    titles = [f"scale {i}\nmean {v.mean():z.2f}, deviation {v.std(correction=0):.2f}" for i, v in enumerate(scales)]
    picture = plots.histograms_and_quantiles(scales, [latent.normal_quantiles(scale) for scale in scales], titles)
    yield Drawing("latents", picture, {"z": z.numpy()})
    mean, deviation = (values.numpy() for values in latent.pixel_moments(z))
    yield Drawing("latents-maps", plots.maps(mean, deviation), {"mean": mean, "deviation": deviation})
    bits = in_bits_per_dim(log_probs(subject.flow, x, seed=subject.seed), x.shape[1:]).numpy()
    yield _extremes(subject, images, bits)
    yield from _neighbours(subject)


def _extremes(subject: Subject, images: Pixels, bits: Array) -> Drawing:
    """The images with the fewest and with the most bits/dim."""
    order, pictures = np.argsort(bits), []
    arrays: dict[str, Array] = {}
    for words, chosen in (("fewest", order[:20]), ("most", order[::-1][:20])):
        under, title = [f"{value:.2f}" for value in bits[chosen]], f"{words} bits/dim of {len(bits)} test images"
        pictures.append(subject.grid(images[chosen], columns=10, side=96, title=title, under=under))
        arrays |= {words: images[chosen], f"{words}-bits_per_dim": bits[chosen]}
    return Drawing("latents-extremes", stacked(pictures), arrays)


def _neighbours(subject: Subject) -> Iterator[Drawing]:
    """Did it memorise? The samples nearest to training images, and how near samples and test images are to them."""
    train, data, drawn = subject.splits.train, subject.some(subject.splits.test, SAMPLED), subject.sampled(SAMPLED)
    queries, report = torch.from_numpy(np.concatenate([drawn, data])), subject.telling("training image", len(train))
    found = latent.nearest_neighbours(queries, train, mirrored=subject.config.data.flip, report=report)
    near, usual = found.distance[: len(drawn)].numpy(), found.distance[len(drawn) :].numpy()
    order = np.argsort(near)[:20]
    pairs = drawn[order], np.stack([train[i] for i in found.where.numpy()[order]])
    rows = np.concatenate([images[at : at + 10] for at in (0, 10) for images in pairs])
    title = "samples nearest to a training image, above that image"
    picture = subject.grid(rows, columns=10, side=96, title=title, left=["sample", "training"] * 2)
    yield Drawing("latents-neighbours", picture, {"samples": pairs[0], "training": pairs[1]})
    xlabel = "distance to the nearest training image (root mean square, grey levels)"
    picture = plots.distances({"samples": near, "test images": usual}, xlabel=xlabel)
    yield Drawing("latents-distances", picture, {"samples": near, "test": usual})


def curves(subject: Subject) -> Iterator[Drawing]:
    """Bits/dim of train and validation over steps and over time, from metrics.jsonl."""
    path = subject.run / "metrics.jsonl"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    try:
        entries = [json.loads(line) for line in lines]
        train = _series(entries, bits="train_bits_per_dim")
        validation = _series(entries, bits="validation_bits_per_dim", error="validation_standard_error")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DamagedError(f"{path}: not the metrics of a training") from None
    if not len(train["bits"]) or not len(validation["bits"]):
        raise ValueError(f"{path}: no bits/dim in it yet")
    parts = {"train": train, "validation": validation}
    arrays = {f"{split}-{key}": values for split, part in parts.items() for key, values in part.items()}
    yield Drawing("curves", plots.curves(train, validation), arrays)


def _series(entries: list[dict[str, Any]], **keys: str) -> dict[str, Array]:
    """Step, seconds and these keys of the entries that have them all; values that were not finite are null there."""
    keys |= {"step": "step", "seconds": "seconds"}
    chosen = [entry for entry in entries if all(entry.get(key) is not None for key in keys.values())]
    return {name: np.array([entry[key] for entry in chosen], float) for name, key in keys.items()}


def _channels_first(images: Pixels) -> Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2))


FIGURES: dict[str, Callable[[Subject], Iterator[Drawing]]] = {
    "samples": samples,
    "manifold": manifold,
    "extrapolation": extrapolation,
    "compression": compression,
    "latents": latents,
    "curves": curves,
}
