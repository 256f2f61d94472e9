"""Figures of a table's run: points where it has two columns, pairs of columns where more."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections.base import float64_like
from realnvp.config import ContextColumn
from realnvp.evaluation import latent
from realnvp.evaluation.likelihood import log_probs
from realnvp.figures import plots
from realnvp.figures import plots as point_plots
from realnvp.figures.drawing import Drawing, TrainedRun
from realnvp.figures.grids import Array
from realnvp.flows.flow import ROWS as ROWS_AT_ONCE
from realnvp.progress import chunks

SHOWN = 3000  # points of each kind
COLUMNS = 5  # of a wide table that are shown
QUANTILES = (0.1, 0.5, 0.9)  # of the first given column, whose rows are conditions


def density(run: TrainedRun) -> Iterator[Drawing]:
    """Data, samples, and the density as areas that hold so much probability."""
    data, samples = _data(run), _samples(run, 10_000)
    axes = _axes(data, 400)
    log_p, edges = _landscape(run, axes, samples)
    picture = point_plots.density(_names(run), data, samples[:SHOWN], axes, log_p, edges)
    yield Drawing(
        "density", picture, {"data": data, "samples": samples, "log_p": log_p, "edges": edges}
    )


def conditional(run: TrainedRun) -> Iterator[Drawing]:
    """The density given the condition of three test rows: low, middle, high in the first column.

    Dots are the twentieth of the test rows whose conditions are nearest.
    """
    data, context = _data(run), _given(run, SHOWN)
    assert context is not None
    columns = run.config.table.context_values
    order, axes = np.lexsort(context.T[::-1]), _axes(data, 200)
    scale = np.where(context.std(0) > 0, context.std(0), 1)
    panels = list[tuple[str, tuple[Array, Array, Array]]]()
    for share in QUANTILES:
        c = context[order[round(share * (len(order) - 1))]]
        distances = np.square((context - c) / scale).sum(1)
        near = data[np.argsort(distances, kind="stable")[: max(1, len(data) // 20)]]
        log_p, edges = _landscape(run, axes, _samples(run, 4_000, context=c), c)
        panels.append((_in_words(columns, c), (log_p, edges, near)))
    yield Drawing(
        "conditional",
        point_plots.conditional(_names(run), axes, panels),
        {"log_p": np.stack([log_p for _, (log_p, _, _) in panels])},
    )


def _in_words(columns: Sequence[ContextColumn], numbers: Array) -> str:
    """'area = 42.7, city = Oslo': a condition by its numbers; three columns at most."""
    words, place = [], 0
    for column in columns[:3]:
        value = numbers[place : place + len(column.numbers)]
        place += len(column.numbers)
        if column.categories:
            text = column.categories[int(value.argmax())]
        else:
            text = f"{value[0]:.3g}"
        words.append(f"{column.name} = {text}"[:24])
    return ", ".join(words) + ", ..." * (len(columns) > 3)


def both_ways(run: TrainedRun) -> Iterator[Drawing]:
    """Figure 1 of the paper: data and latents, latents and data, a grid carried along."""
    data, samples = _data(run), _samples(run, SHOWN)
    limits = _limits(data), (np.full(2, -3.5), np.full(2, 3.5))
    lines = [_grid(*each) for each in limits]
    z = _encode(run, data), _encode(run, samples)
    carried = _encode(run, lines[0]), _decode(run, lines[1])
    picture = point_plots.both_ways(
        _names(run), (data, z[0]), (samples, z[1]), lines, carried, limits
    )
    yield Drawing("map", picture, {"x": data, "z": z[0], "samples": samples, "samples-z": z[1]})


def pairs(run: TrainedRun) -> Iterator[Drawing]:
    """Data and as many samples in each pair of columns, the first ones of a wide table."""
    shown = slice(min(COLUMNS, run.splits.shape[0]))
    data = _data(run)[:, shown]
    samples = _samples(run, len(data), context=_given(run, SHOWN))[:, shown]
    yield Drawing(
        "pairs",
        point_plots.pairs(_names(run)[shown], {"data": data, "samples": samples}),
        {"samples": samples},
    )


def latents(run: TrainedRun) -> Iterator[Drawing]:
    """Each column's latents of the test rows against N(0, 1)."""
    test = torch.from_numpy(np.array(run.splits.test[:]))
    context = _given(run)
    z = torch.cat(
        [
            run.flow.encode(
                test[rows].to(float64_like(run.flow)), None if context is None else context[rows]
            )
            for rows in chunks(len(test), ROWS_AT_ONCE)
        ]
    ).cpu()
    columns = list(z[:, :COLUMNS].T)
    picture = plots.histograms_and_quantiles(
        columns,
        [latent.normal_quantiles(column) for column in columns],
        [
            f"z of {name[:20]}\nmean {v.mean():z.2f}, deviation {v.std(correction=0):.2f}"
            for name, v in zip(_names(run)[:COLUMNS], columns, strict=True)
        ],
    )
    yield Drawing("latents", picture, {"z": z.numpy()})


def _names(run: TrainedRun) -> tuple[str, ...]:
    assert run.config.table.columns is not None
    return run.config.table.columns


def _data(run: TrainedRun) -> Array:
    """Rows of the test split, chosen by the seed."""
    return run.some(run.splits.test, SHOWN)


def _given(run: TrainedRun, most: int | None = None) -> Array | None:
    """The condition of the test rows, or of those that `_data` chooses. None: there is none."""
    if not run.splits.context or not run.splits.labels:
        return None
    test = run.splits.labels["test"]
    return np.array(test[:]) if most is None else run.some(test, most)


def _samples(run: TrainedRun, count: int, context: Array | None = None) -> Array:
    dtype = float64_like(run.flow).dtype
    return (
        run.flow.sample(count, context=context, seed=run.seed, dtype=dtype).cpu().double().numpy()
    )


def _encode(run: TrainedRun, x: Array) -> Array:
    return _rows(
        latent.encode(run.flow, torch.from_numpy(x.reshape(-1, x.shape[-1])), chunk=1024), x
    )


def _decode(run: TrainedRun, z: Array) -> Array:
    return _rows(
        latent.decode(run.flow, torch.from_numpy(z.reshape(-1, z.shape[-1])), chunk=1024), z
    )


def _rows(points: Tensor, like: Array) -> Array:
    return points.cpu().double().numpy().reshape(like.shape)


def _axes(data: Array, count: int) -> list[Array]:
    """Coordinates of a grid over the data, of each column."""
    return [np.linspace(low, high, count) for low, high in zip(*_limits(data), strict=True)]


def _landscape(
    run: TrainedRun, axes: list[Array], samples: Array, context: Array | None = None
) -> tuple[Array, Array]:
    """log p on a grid, and on the rims of the areas that hold `MASSES` of it."""
    grid = np.stack(np.meshgrid(*axes), -1)
    log_p = (
        log_probs(run.flow, grid.reshape(-1, 2), context=context).numpy().reshape(grid.shape[:2])
    )
    # With probability q a sample's density is above the (1 - q)-quantile of samples' densities.
    each = log_probs(run.flow, samples, context=context).numpy()
    return log_p, np.quantile(each, [1 - mass for mass in point_plots.MASSES])


def _limits(data: Array) -> tuple[Array, Array]:
    """The corners of what is shown: nearly all of the data, and some room."""
    return point_plots.limits(data, 0.001, room=0.12)


def _grid(low: Array, high: Array, *, lines: int = 17, dots: int = 600) -> Array:
    """(2, lines, dots, 2): horizontal lines, then vertical ones."""
    places, along = (np.linspace(low, high, count) for count in (lines, dots))
    horizontal = np.stack(np.broadcast_arrays(along[None, :, 0], places[:, None, 1]), -1)
    vertical = np.stack(np.broadcast_arrays(places[:, None, 0], along[None, :, 1]), -1)
    return np.stack([horizontal, vertical])
