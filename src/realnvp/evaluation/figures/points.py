"""Figures of a table's run: of points in a plane where it has two columns, of pairs of columns where it has more."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections.precision import float64_like
from realnvp.evaluation import latent
from realnvp.evaluation.figures import plots
from realnvp.evaluation.figures.subject import Array, Drawing, Subject
from realnvp.evaluation.likelihood import log_probs

SHOWN = 3000  # points of each kind
COLUMNS = 5  # that are shown of a wide table


def density(subject: Subject) -> Iterator[Drawing]:
    """Data, the density as areas of so much mass, and samples."""
    data, samples = _data(subject), _samples(subject, 10_000)
    axes = [np.linspace(low, high, 400) for low, high in zip(*_limits(data), strict=True)]
    grid = np.stack(np.meshgrid(*axes), -1)
    log_p = log_probs(subject.flow, grid.reshape(-1, 2)).numpy().reshape(grid.shape[:2])
    # A sample is with probability q among the points whose density is above the (1 - q)-quantile of samples' densities.
    edges = np.quantile(log_probs(subject.flow, samples).numpy(), [1 - mass for mass in plots.MASSES])
    picture = plots.density(_names(subject), data, samples[:SHOWN], axes, log_p, edges)
    yield Drawing("density", picture, {"data": data, "samples": samples, "log_p": log_p, "edges": edges})


def both_ways(subject: Subject) -> Iterator[Drawing]:
    """Figure 1 of the paper: data and their latents, latents and their data, a grid carried along."""
    data, samples = _data(subject), _samples(subject, SHOWN)
    limits = _limits(data), (np.full(2, -3.5), np.full(2, 3.5))
    lines = [_grid(*each) for each in limits]
    z = _encode(subject, data), _encode(subject, samples)
    carried = _encode(subject, lines[0]), _decode(subject, lines[1])
    picture = plots.both_ways(_names(subject), (data, z[0]), (samples, z[1]), lines, carried, limits)
    yield Drawing("map", picture, {"x": data, "z": z[0], "samples": samples, "samples-z": z[1]})


def pairs(subject: Subject) -> Iterator[Drawing]:
    """Data and as many samples in each pair of columns, the first ones of a wide table."""
    shown = slice(min(COLUMNS, subject.splits.shape[0]))
    data = _data(subject)[:, shown]
    samples = _samples(subject, len(data))[:, shown]
    yield Drawing("pairs", plots.pairs(_names(subject)[shown], {"data": data, "samples": samples}), {"samples": samples})


def latents(subject: Subject) -> Iterator[Drawing]:
    """Each column's latents of the test rows against N(0, 1)."""
    z = torch.from_numpy(_encode(subject, np.array(subject.splits.test[:])))
    columns = list(z[:, :COLUMNS].T)
    named = zip(_names(subject)[:COLUMNS], columns, strict=True)
    titles = [f"z of {name[:20]}\nmean {v.mean():z.2f}, deviation {v.std(correction=0):.2f}" for name, v in named]
    quantiles = [latent.normal_quantiles(column) for column in columns]
    yield Drawing("latents", plots.histograms_and_quantiles(columns, quantiles, titles), {"z": z.numpy()})


def _names(subject: Subject) -> tuple[str, ...]:
    assert subject.config.data.columns is not None
    return subject.config.data.columns


def _data(subject: Subject) -> Array:
    """Rows of the test split, chosen by the seed."""
    return subject.some(subject.splits.test, SHOWN)


def _samples(subject: Subject, count: int) -> Array:
    samples = subject.flow.sample(count, seed=subject.seed, dtype=float64_like(subject.flow).dtype)
    return samples.cpu().double().numpy()


def _encode(subject: Subject, x: Array) -> Array:
    return _rows(latent.encode(subject.flow, torch.from_numpy(x.reshape(-1, x.shape[-1])), chunk=1024), x)


def _decode(subject: Subject, z: Array) -> Array:
    return _rows(latent.decode(subject.flow, torch.from_numpy(z.reshape(-1, z.shape[-1])), chunk=1024), z)


def _rows(points: Tensor, like: Array) -> Array:
    return points.cpu().double().numpy().reshape(like.shape)


def _limits(data: Array) -> tuple[Array, Array]:
    """The corners of what is shown: nearly all of the data, and some room."""
    return plots.limits(data, 0.001, room=0.12)


def _grid(low: Array, high: Array, *, lines: int = 17, dots: int = 600) -> Array:
    """(2, lines, dots, 2): horizontal lines, then vertical ones."""
    places, along = (np.linspace(low, high, count) for count in (lines, dots))
    horizontal = np.stack(np.broadcast_arrays(along[None, :, 0], places[:, None, 1]), -1)
    vertical = np.stack(np.broadcast_arrays(places[:, None, 0], along[None, :, 1]), -1)
    return np.stack([horizontal, vertical])


Figures = dict[str, Callable[[Subject], Iterator[Drawing]]]
OF_TWO: Figures = {"density": density, "map": both_ways}
OF_MORE: Figures = {"pairs": pairs}
FIGURES: Figures = {"latents": latents}
