"""Plots of points: rows of a table, or two of its columns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from realnvp.figures.grids import DOTS_PER_INCH, Array, Picture

BLUE, ORANGE = "#1f5fa8", "#d9822b"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
}


def plot(width: float, height: float, draw: Callable[[Any], None]) -> Picture:
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
) -> Picture:
    """Each scale's latents: their histogram, and under it their quantiles against N(0, 1)'s."""
    normal = np.linspace(-4, 4, 201)

    def draw(figure: Any) -> None:
        axes = figure.subplots(2, len(values), squeeze=False, sharex=True, sharey="row")
        for (above, below), z, (expected, found), title in zip(
            axes.T, values, quantiles, titles, strict=True
        ):
            above.hist(
                z.numpy(),
                bins=np.linspace(-4, 4, 81).tolist(),
                density=True,
                color=BLUE,
                alpha=0.5,
                label="z",
            )
            above.plot(
                normal,
                np.exp(-(normal**2) / 2) / np.sqrt(2 * np.pi),
                color="black",
                lw=1,
                label="N(0, 1)",
            )
            above.set_title(title)
            below.plot([-4, 4], [-4, 4], color="black", lw=1)
            below.plot(expected, found, ".", color=BLUE, ms=4)
            below.set(
                xlim=(-4.2, 4.2),
                ylim=(-4.6, 4.6),
                xticks=[-4, -2, 0, 2, 4],
                xlabel="quantile of N(0, 1)",
            )
        axes[0, 0].set_ylabel("density")
        axes[0, 0].legend(loc="upper left", handlelength=1)
        axes[1, 0].set_ylabel("quantile of z")

    return plot(max(5.5, 2.2 * len(values)), 4.4, draw)


def maps(mean: Array, deviation: Array) -> Picture:
    """Mean and deviation of z at each pixel; the maps' middle colours are N(0, 1)'s 0 and 1."""

    def draw(figure: Any) -> None:
        for axes, values, middle, title in zip(
            figure.subplots(1, 2),
            (mean, deviation),
            (0.0, 1.0),
            ("mean of z", "deviation of z"),
            strict=True,
        ):
            reach = max(0.25, float(np.quantile(np.abs(values - middle), 0.99)))
            image = axes.imshow(
                values,
                cmap="RdBu_r",
                vmin=middle - reach,
                vmax=middle + reach,
                interpolation="nearest",
            )
            axes.set(title=title, xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            figure.colorbar(image, ax=axes, shrink=0.8)

    return plot(7.5, 3.4, draw)


def distances(groups: Mapping[str, Array], *, xlabel: str) -> Picture:
    """A histogram of each group of distances, on one axis."""
    bins = np.linspace(
        0, max(float(values.max()) for values in groups.values()) * 1.02 + 1e-9, 41
    ).tolist()

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for (label, values), color in zip(groups.items(), (BLUE, ORANGE), strict=True):
            axes.hist(values, bins=bins, color=color, alpha=0.55, label=label)
        axes.set(xlabel=xlabel, ylabel="images")
        axes.legend()

    return plot(6.0, 2.8, draw)


def curves(train: Mapping[str, Array], validation: Mapping[str, Array], unit: str) -> Picture:
    """A number over steps and over time.

    Both hold step, seconds, value; validation also error, the standard error.
    """
    every = np.concatenate([train["value"][len(train["value"]) // 20 :], validation["value"]])
    low, high = float(every.min()), float(every.max())
    longest = max(float(part["seconds"].max()) for part in (train, validation))
    of_time, seconds = (
        ("hours", 3600)
        if longest > 3 * 3600
        else ("minutes", 60)
        if longest > 180
        else ("seconds", 1)
    )

    def draw(figure: Any) -> None:
        figure.get_layout_engine().set(wspace=0.08)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, key, size, label in zip(
            panels, ("step", "seconds"), (1, seconds), ("step", of_time), strict=True
        ):
            axes.plot(
                train[key] / size, train["value"], color=BLUE, lw=0.8, alpha=0.6, label="train"
            )
            axes.errorbar(
                validation[key] / size,
                validation["value"],
                yerr=validation["error"],
                color=ORANGE,
                lw=1.5,
                marker=".",
                label="validation",
            )
            axes.set(
                xlabel=label,
                xlim=(0, None),
                ylim=(low - 0.1 * (high - low) - 0.02, high + 0.1 * (high - low) + 0.02),
            )
            axes.grid(alpha=0.25)
        panels[0].set_ylabel(unit)
        panels[0].legend()

    return plot(8.0, 3.2, draw)


MASSES = (0.99, 0.9, 0.7, 0.5, 0.3, 0.1)  # probabilities of the areas that show a density
AREAS = f"areas of {', '.join(f'{100 * mass:g}' for mass in MASSES)} % of it"


def density(
    columns: Sequence[str],
    data: Array,
    samples: Array,
    axes: Sequence[Array],
    log_p: Array,
    edges: Array,
) -> Picture:
    """Data, density, samples, (N, 2) each, on common axes.

    The density is shown as the smallest areas that hold `MASSES` of it.

    axes: coordinates, (n,) and (m,), of log_p.
    log_p: (m, n).
    edges: log p on the rims of the areas, ascending.
    """

    def draw(figure: Any) -> None:
        left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
        _dots(left, "data", data, color=BLUE)
        _dots(right, "samples", samples, color=ORANGE)
        _areas(middle, axes, log_p, edges)
        middle.set_title(f"density: {AREAS}")
        for panel in (left, middle, right):
            panel.set(xlim=axes[0][[0, -1]], ylim=axes[1][[0, -1]], xlabel=columns[0])
        left.set_ylabel(columns[1])

    return plot(11.4, 4.1, draw)


def conditional(
    columns: Sequence[str],
    axes: Sequence[Array],
    panels: Sequence[tuple[str, tuple[Array, Array, Array]]],
) -> Picture:
    """Densities of two columns given one condition after the other, on common axes.

    panels: a title each, log_p and edges, as of `density`, and rows of near conditions.
    """

    def draw(figure: Any) -> None:
        each = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
        for panel, (title, (log_p, edges, near)) in zip(each, panels, strict=True):
            _areas(panel, axes, log_p, edges)
            _dots(panel, title, near, color=ORANGE)
            panel.set(xlim=axes[0][[0, -1]], ylim=axes[1][[0, -1]], xlabel=columns[0])
        each[0].set_ylabel(columns[1])
        figure.supxlabel(f"{AREAS}; dots: test rows whose condition is nearest", fontsize=8)

    return plot(3.8 * len(panels), 4.3, draw)


def both_ways(
    columns: Sequence[str],
    data: tuple[Array, Array],
    samples: tuple[Array, Array],
    lines: Sequence[Array],
    carried: Sequence[Array],
    limits: Sequence[tuple[Array, Array]],
) -> Picture:
    """Figure 1 of the paper: above data x and z = f(x), below samples x = g(z) and z.

    A point's colour tells its direction in z.

    lines: grids of x and of z, (2, lines, dots, 2).
    carried: f of the first grid, g of the second.
    limits: corners of x and of z.
    """
    panels = {
        "x, data": (0, data[0], data[1], lines[0]),
        "z = f(x)": (1, data[1], data[1], carried[0]),
        "x = g(z), samples": (0, samples[0], samples[1], carried[1]),
        "z, Gaussian": (1, samples[1], samples[1], lines[1]),
    }

    def draw(figure: Any) -> None:
        from matplotlib.colors import hsv_to_rgb

        for axes, (title, (space, points, z, grid)) in zip(
            figure.subplots(2, 2).flat, panels.items(), strict=True
        ):
            hue = np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi) + 0.5
            for line in grid.reshape(-1, *grid.shape[2:]):
                axes.plot(*line.T, color="0.6", lw=0.5, zorder=0)
            _dots(
                axes,
                title,
                points,
                c=hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.85), np.full_like(hue, 0.8)], -1)),
            )
            low, high = limits[space]
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            if space == 0:
                axes.set(xlabel=columns[0], ylabel=columns[1])

    return plot(7.6, 7.6, draw)


def pairs(columns: Sequence[str], groups: Mapping[str, Array]) -> Picture:
    """Groups of rows, (N, D) each: histograms of columns, and under them the points of pairs."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    count, first = len(columns), next(iter(groups.values()))
    low, high = limits(first, 0.002, room=0.1)

    def draw(figure: Any) -> None:
        for (i, j), axes in np.ndenumerate(figure.subplots(count, count, squeeze=False)):
            axes.set(xlim=(low[j], high[j]), visible=i >= j)
            for rows, color in zip(groups.values(), (BLUE, ORANGE), strict=True):
                if i == j:
                    bins = np.linspace(low[j], high[j], 41).tolist()
                    axes.hist(
                        rows[:, j], bins=bins, density=True, histtype="step", color=color, lw=1.2
                    )
                    axes.set(yticks=[])
                else:
                    _dots(axes, "", rows[:, [j, i]], color=color)
                    axes.set(ylim=(low[i], high[i]))
            for axis, k in ((axes.xaxis, j), (axes.yaxis, i))[: 2 if i > j else 1]:
                axis.set_major_locator(MaxNLocator(3))
                if not 1e-3 < np.abs([low[k], high[k]]).max() < 1e5:  # 300k, not 300000
                    axis.set_major_formatter(EngFormatter(sep=""))
            axes.tick_params(labelbottom=i == count - 1, labelleft=j == 0 and i > 0, labelsize=7)
            axes.set_xlabel(columns[j][:20] if i == count - 1 else "")
            axes.set_ylabel(columns[i][:20] if j == 0 and i else "")
        for name, color in zip(groups, (BLUE, ORANGE), strict=True):
            figure.axes[0].plot([], [], color=color, label=name)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper right")

    return plot(2 * count + 0.5, 2 * count + 0.5, draw)


def scatter(groups: Mapping[str, Array], columns: Sequence[str]) -> Picture:
    """The points of each group, (N, 2), in its own panel, all on the first group's axes."""
    first = next(iter(groups.values()))
    low, high = first.min(0), first.max(0)
    room = 0.05 * (high - low) + 1e-12

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (title, points), color in zip(
            panels, groups.items(), (BLUE, ORANGE), strict=False
        ):
            _dots(axes, title, points, color=color)
            axes.set(
                xlim=(low[0] - room[0], high[0] + room[0]),
                ylim=(low[1] - room[1], high[1] + room[1]),
                xlabel=columns[0],
            )
        panels[0].set_ylabel(columns[1])

    return plot(4.2 * len(groups), 4.2, draw)


def limits(data: Array, beyond: float, *, room: float) -> tuple[Array, Array]:
    """The least and the largest of each column of (N, D), but for the share `beyond` at each end.

    room: added at each end, as a share of their distance; 1 where all values are equal.
    """
    low, high = np.quantile(data, [beyond, 1 - beyond], axis=0)
    more = np.where(high > low, room * (high - low), 1.0)
    return low - more, high + more


def _areas(panel: Any, axes: Sequence[Array], log_p: Array, edges: Array) -> None:
    """Fill the smallest areas that hold `MASSES` of a density."""
    from matplotlib import colormaps

    shades = colormaps["Blues"](np.linspace(0.12, 0.95, len(MASSES)))
    panel.contourf(*axes, log_p, [*edges, max(log_p.max(), edges[-1]) + 1], colors=shades)


def _dots(axes: Any, title: str, points: Array, **color: Any) -> None:
    """Draw points: the more there are, the smaller."""
    axes.scatter(
        *points.T, s=min(4.0, max(0.3, 6000 / len(points))), linewidths=0, alpha=0.7, **color
    )
    axes.set_title(title)
