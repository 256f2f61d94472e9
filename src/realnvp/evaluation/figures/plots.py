"""Plots by matplotlib, as Pillow images: without pyplot, so no window, no global state, and not the user's style."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from realnvp.evaluation.figures.grids import DOTS_PER_INCH

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Array = NDArray[Any]
BLUE, ORANGE = "#1f5fa8", "#d9822b"
MASSES = (0.99, 0.9, 0.7, 0.5, 0.3, 0.1)  # of a density, in areas of ever more of it
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9, "legend.frameon": False}


def plot(width: float, height: float, draw: Callable[[Any], None]) -> "Picture":
    """What `draw` puts on a matplotlib figure of so many inches."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        draw(figure)
        canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")


def histograms_and_quantiles(
    values: Sequence[Tensor], quantiles: Sequence[tuple[Tensor, Tensor]], titles: Sequence[str]
) -> "Picture":
    """For each scale, its latents' histogram and, under it, their quantiles against those of N(0, 1)."""
    normal = np.linspace(-4, 4, 201)

    def draw(figure: Any) -> None:
        axes = figure.subplots(2, len(values), squeeze=False, sharex=True, sharey="row")
        for (above, below), z, (expected, found), title in zip(axes.T, values, quantiles, titles, strict=True):
            above.hist(z.numpy(), bins=np.linspace(-4, 4, 81).tolist(), density=True, color=BLUE, alpha=0.5, label="z")
            above.plot(normal, np.exp(-(normal**2) / 2) / np.sqrt(2 * np.pi), color="black", lw=1, label="N(0, 1)")
            above.set_title(title)
            below.plot([-4, 4], [-4, 4], color="black", lw=1)
            below.plot(expected, found, ".", color=BLUE, ms=4)
            below.set(xlim=(-4.2, 4.2), ylim=(-4.6, 4.6), xticks=[-4, -2, 0, 2, 4], xlabel="quantile of N(0, 1)")
        axes[0, 0].set_ylabel("density")
        axes[0, 0].legend(loc="upper left", handlelength=1)
        axes[1, 0].set_ylabel("quantile of z")

    return plot(max(5.5, 2.2 * len(values)), 4.4, draw)


def maps(mean: Array, deviation: Array) -> "Picture":
    """Mean and deviation of z at each pixel, as maps whose middle colour is what N(0, 1) has: 0 and 1."""

    def draw(figure: Any) -> None:
        for axes, values, middle, title in zip(
            figure.subplots(1, 2), (mean, deviation), (0.0, 1.0), ("mean of z", "deviation of z"), strict=True
        ):
            reach = max(0.25, float(np.quantile(np.abs(values - middle), 0.99)))
            image = axes.imshow(values, cmap="RdBu_r", vmin=middle - reach, vmax=middle + reach, interpolation="nearest")
            axes.set(title=title, xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            figure.colorbar(image, ax=axes, shrink=0.8)

    return plot(7.5, 3.4, draw)


def distances(groups: Mapping[str, Array], *, xlabel: str) -> "Picture":
    """A histogram of each group of distances, on one axis."""
    bins = np.linspace(0, max(float(values.max()) for values in groups.values()) * 1.02 + 1e-9, 41).tolist()

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for (label, values), colour in zip(groups.items(), (BLUE, ORANGE), strict=True):
            axes.hist(values, bins=bins, color=colour, alpha=0.55, label=label)
        axes.set(xlabel=xlabel, ylabel="images")
        axes.legend()

    return plot(6.0, 2.8, draw)


def curves(train: Mapping[str, Array], validation: Mapping[str, Array], unit: str) -> "Picture":
    """A number over steps and over time. Both hold step, seconds, value; validation also error, the standard error."""
    every = np.concatenate([train["value"][len(train["value"]) // 20 :], validation["value"]])
    low, high = float(every.min()), float(every.max())
    longest = max(float(part["seconds"].max()) for part in (train, validation))
    of_time, seconds = ("hours", 3600) if longest > 3 * 3600 else ("minutes", 60) if longest > 180 else ("seconds", 1)

    def draw(figure: Any) -> None:
        figure.get_layout_engine().set(wspace=0.08)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, key, size, label in zip(panels, ("step", "seconds"), (1, seconds), ("step", of_time), strict=True):
            axes.plot(train[key] / size, train["value"], color=BLUE, lw=0.8, alpha=0.6, label="train")
            places = {"x": validation[key] / size, "y": validation["value"], "yerr": validation["error"]}
            axes.errorbar(**places, color=ORANGE, lw=1.5, marker=".", label="validation")
            axes.set(xlabel=label, xlim=(0, None), ylim=(low - 0.1 * (high - low) - 0.02, high + 0.1 * (high - low) + 0.02))
            axes.grid(alpha=0.25)
        panels[0].set_ylabel(unit)
        panels[0].legend()

    return plot(8.0, 3.2, draw)


def density(columns: Sequence[str], data: Array, samples: Array, axes: Sequence[Array], log_p: Array, edges: Array) -> "Picture":
    """Data, density, samples, (N, 2) each, on common axes. The density is shown as the smallest areas that hold `MASSES` of it.

    axes: the coordinates, (n,) and (m,), where log_p, (m, n), is known; edges: log p on the rims of those areas, ascending.
    """

    def draw(figure: Any) -> None:
        left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
        _dots(left, "data", data, color=BLUE)
        _dots(right, "samples", samples, color=ORANGE)
        shades = np.linspace(0.12, 0.95, len(MASSES))
        middle.contourf(*axes, log_p, [*edges, max(log_p.max(), edges[-1]) + 1], colors=_map("Blues")(shades))
        middle.set_title(f"density: areas of {', '.join(f'{100 * mass:g}' for mass in MASSES)} % of it")
        for panel in (left, middle, right):
            panel.set(xlim=axes[0][[0, -1]], ylim=axes[1][[0, -1]], xlabel=columns[0])
        left.set_ylabel(columns[1])

    return plot(11.4, 4.1, draw)


def both_ways(
    columns: Sequence[str],
    data: tuple[Array, Array],
    samples: tuple[Array, Array],
    lines: Sequence[Array],
    carried: Sequence[Array],
    limits: Sequence[tuple[Array, Array]],
) -> "Picture":
    """Figure 1 of the paper. Above data x and z = f(x), below samples x = g(z) and z; a point's colour tells its direction in z.

    lines: grids of x and of z, (2, lines, dots, 2); carried: f of the first and g of the second; limits: corners of x and of z.
    """
    panels = {
        "x, data": (0, data[0], data[1], lines[0]),
        "z = f(x)": (1, data[1], data[1], carried[0]),
        "x = g(z), samples": (0, samples[0], samples[1], carried[1]),
        "z, Gaussian": (1, samples[1], samples[1], lines[1]),
    }

    def draw(figure: Any) -> None:
        from matplotlib.colors import hsv_to_rgb

        for axes, (title, (space, points, z, grid)) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
            hue = np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi) + 0.5
            for line in grid.reshape(-1, *grid.shape[2:]):
                axes.plot(*line.T, color="0.6", lw=0.5, zorder=0)
            _dots(axes, title, points, c=hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.85), np.full_like(hue, 0.8)], -1)))
            low, high = limits[space]
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            if space == 0:
                axes.set(xlabel=columns[0], ylabel=columns[1])

    return plot(7.6, 7.6, draw)


def pairs(columns: Sequence[str], groups: Mapping[str, Array]) -> "Picture":
    """Groups of rows, (N, D) each: histograms of the columns, and under them the points of each pair."""
    count, first = len(columns), next(iter(groups.values()))
    low, high = limits(first, 0.002, room=0.1)

    def draw(figure: Any) -> None:
        for (i, j), axes in np.ndenumerate(figure.subplots(count, count, squeeze=False)):
            axes.set(xlim=(low[j], high[j]), visible=i >= j)
            for rows, colour in zip(groups.values(), (BLUE, ORANGE), strict=True):
                if i == j:
                    bins = np.linspace(low[j], high[j], 41).tolist()
                    axes.hist(rows[:, j], bins=bins, density=True, histtype="step", color=colour, lw=1.2)
                    axes.set(yticks=[])
                else:
                    _dots(axes, "", rows[:, [j, i]], color=colour)
                    axes.set(ylim=(low[i], high[i]))
            axes.tick_params(labelbottom=i == count - 1, labelleft=j == 0 and i > 0, labelsize=7)
            axes.set_xlabel(columns[j][:20] if i == count - 1 else "")
            axes.set_ylabel(columns[i][:20] if j == 0 and i else "")
        for name, colour in zip(groups, (BLUE, ORANGE), strict=True):
            figure.axes[0].plot([], [], color=colour, label=name)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper right")

    return plot(2 * count + 0.5, 2 * count + 0.5, draw)


def scatter(groups: Mapping[str, Array], columns: Sequence[str]) -> "Picture":
    """The points of each group, (N, 2), in a panel of its own, all on the axes of the first."""
    first = next(iter(groups.values()))
    low, high = first.min(0), first.max(0)
    room = 0.05 * (high - low) + 1e-12

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (title, points), colour in zip(panels, groups.items(), (BLUE, ORANGE), strict=False):
            _dots(axes, title, points, color=colour)
            axes.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]), xlabel=columns[0])
        panels[0].set_ylabel(columns[1])

    return plot(4.2 * len(groups), 4.2, draw)


def limits(data: Array, beyond: float, *, room: float) -> tuple[Array, Array]:
    """The least and the largest of each column, (N, D), but for so many beyond, with some room; 1 where all are one value."""
    low, high = np.quantile(data, [beyond, 1 - beyond], axis=0)
    more = np.where(high > low, room * (high - low), 1.0)
    return low - more, high + more


def _dots(axes: Any, title: str, points: Array, **colour: Any) -> None:
    """Points, the smaller the more there are."""
    axes.scatter(*points.T, s=min(4.0, max(0.3, 6000 / len(points))), linewidths=0, alpha=0.7, **colour)
    axes.set_title(title)


def _map(name: str) -> Any:
    from matplotlib import colormaps

    return colormaps[name]
