"""Figures of a flow of tables: two columns as points, pairs of columns of wider tables."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections.base import float64_like
from realnvp.config.fields import ContextColumn
from realnvp.evaluation.likelihood import log_probs
from realnvp.figures import plots
from realnvp.figures.grids import Array
from realnvp.figures.paper import Drawing, TrainedRun
from realnvp.flows.flow import ROWS
from realnvp.progress import track_slices

SHOWN = 3000  # points of each kind
COLUMNS = 5  # of a wide table that are shown
QUANTILES = (0.1, 0.5, 0.9)  # of the first context column, whose rows are conditions


def density(run: TrainedRun) -> Iterator[Drawing]:
    """Data, samples, and the density as areas that hold so much probability."""
    data, samples = run.some("test", SHOWN), _samples(run, 10_000)
    log_p, grid = _log_p(run, data, 400)
    shown = [
        plots.Panel("data", data),
        plots.Panel("density", data[:0], log_p=log_p),
        plots.Panel("samples", samples[:SHOWN], plots.ORANGE),
    ]
    picture = plots.panels(_names(run), grid, shown)
    yield Drawing("density", picture, {"data": data, "samples": samples, "log_p": log_p})


def conditional(run: TrainedRun) -> Iterator[Drawing]:
    """The density given the context of three test rows: low, middle, high in the first column.

    Dots are the twentieth of the test rows whose context is nearest.
    """
    data, context = run.some("test", SHOWN), _context(run, SHOWN)
    assert context is not None
    order = np.lexsort(context.T[::-1])
    scale = np.where(context.std(0) > 0, context.std(0), 1)
    panels, densities, grid = list[plots.Panel](), list[Array](), list[Array]()
    for quantile in QUANTILES:
        c = context[order[round(quantile * (len(order) - 1))]]
        squares = np.square((context - c) / scale).sum(1)
        near = data[np.argsort(squares, kind="stable")[: max(1, len(data) // 20)]]
        log_p, grid = _log_p(run, data, 200, c)
        title = context_text(run.config.table.context_values, c)
        panels.append(plots.Panel(title, near, plots.ORANGE, log_p))
        densities.append(log_p)
    picture = plots.panels(_names(run), grid, panels, "nearest test rows")
    yield Drawing("conditional", picture, {"log_p": np.stack(densities)})


def context_text(columns: Sequence[ContextColumn], values: Array) -> str:
    """'area = 42.7, city = Oslo': the first three context columns of an encoded row."""
    texts, start = [], 0
    for column in columns[:3]:
        own = values[start : start + len(column.numbers)]
        start += len(column.numbers)
        value = column.categories[int(own.argmax())] if column.categories else f"{own[0]:.3g}"
        texts.append(f"{column.name} = {value}"[:24])
    return ", ".join(texts) + ", ..." * (len(columns) > 3)


def both_ways(run: TrainedRun) -> Iterator[Drawing]:
    """Data and their latents, samples and theirs, and grids carried along (figure 1)."""
    data, samples = run.some("test", SHOWN), _samples(run, SHOWN)
    limits = plots.limits_of(data, 0.001), (np.full(2, -3.5), np.full(2, 3.5))
    of_x, of_z = (_grid_lines(*corners) for corners in limits)
    z, samples_z = _map(run.flow.encode, data, run), _map(run.flow.encode, samples, run)
    panels = {
        "x, data": (data, z, of_x),
        "z = f(x)": (z, z, _map(run.flow.encode, of_x, run)),
        "x = g(z), samples": (samples, samples_z, _map(run.flow.decode, of_z, run)),
        "z, Gaussian": (samples_z, samples_z, of_z),
    }
    picture = plots.both_ways(_names(run), panels, limits)
    arrays = {"x": data, "z": z, "samples": samples, "samples-z": samples_z}
    yield Drawing("map", picture, arrays)


def pairs(run: TrainedRun) -> Iterator[Drawing]:
    """Data and as many samples in each pair of columns, the first ones of a wide table."""
    shown = slice(min(COLUMNS, run.splits.shape[0]))
    data = run.some("test", SHOWN)
    samples = _samples(run, len(data), _context(run, SHOWN))
    picture = plots.pairs(_names(run)[shown], data[:, shown], samples[:, shown])
    yield Drawing("pairs", picture, {"samples": samples[:, shown]})


def latents(run: TrainedRun) -> Iterator[Drawing]:
    """The latents of each column of the test rows against N(0, 1)."""
    test, context = np.array(run.splits.test[:]), _context(run)
    z = torch.from_numpy(_map(run.flow.encode, test, run, context))
    groups = {f"z of {name[:20]}": z[:, i] for i, name in enumerate(_names(run)[:COLUMNS])}
    yield Drawing("latents", plots.latents(groups), {"z": z.numpy()})


def _names(run: TrainedRun) -> tuple[str, ...]:
    assert run.config.table.columns is not None
    return run.config.table.columns


def _context(run: TrainedRun, count: int | None = None) -> Array | None:
    """The context of the test rows, or of those that `some` chooses; None: there is none."""
    if not run.splits.context_values or not run.splits.labels:
        return None
    context = run.splits.labels["test"]
    return np.array(context[:] if count is None else context[run.chosen(len(context), count)])


def _samples(run: TrainedRun, count: int, context: Array | None = None) -> Array:
    dtype = float64_like(run.flow).dtype
    x = run.flow.sample(count, context=context, seed=run.seed, dtype=dtype)
    return x.cpu().double().numpy()


def _map(
    f: Callable[..., Tensor], points: Array, run: TrainedRun, context: Array | None = None
) -> Array:
    """f, encode or decode, of points (..., D)."""
    rows = torch.from_numpy(points.reshape(-1, points.shape[-1])).to(float64_like(run.flow))
    parts = [
        f(rows[part], None if context is None else context[part])
        for part in track_slices(len(rows), ROWS)
    ]
    return torch.cat(parts).cpu().double().numpy().reshape(points.shape)


def _log_p(
    run: TrainedRun, data: Array, count: int, context: Array | None = None
) -> tuple[Array, list[Array]]:
    """log p on a grid of count x count points over the data, and the grid's coordinates."""
    limits = zip(*plots.limits_of(data, 0.001), strict=True)
    grid = [np.linspace(low, high, count) for low, high in limits]
    points = np.stack(np.meshgrid(*grid), -1).reshape(-1, 2)
    log_p = log_probs(run.flow, points, context=context).numpy()
    return log_p.reshape(count, count), grid


def _grid_lines(low: Array, high: Array) -> Array:
    """(2, 17, 600, 2): horizontal lines, then vertical ones."""
    across, along = (np.linspace(low, high, count) for count in (17, 600))
    horizontal = np.stack(np.broadcast_arrays(along[None, :, 0], across[:, None, 1]), -1)
    vertical = np.stack(np.broadcast_arrays(across[:, None, 0], along[None, :, 1]), -1)
    return np.stack([horizontal, vertical])
