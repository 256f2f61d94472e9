"""Pictures by matplotlib: latents, distances, curves, points and densities of two columns."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from realnvp.evaluation.latent import normal_quantiles
from realnvp.figures.grids import DPI, Array, Picture

BLUE, ORANGE = "#1f5fa8", "#d9822b"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
}
FRACTIONS = (1, 0.1, 0.01, 0.001, 0.0001)  # of normal patches, from yellow to dark red
MASSES = (0.99, 0.9, 0.7, 0.5, 0.3, 0.1)  # probabilities of the areas that show a density


def plot(width: float, height: float, draw: Callable[[Any], None]) -> Picture:
    """Draw on a matplotlib figure of this size in inches."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        draw(figure)
        canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")


def latents(groups: Mapping[str, Tensor]) -> Picture:
    """The histogram of each group of latents, and their quantiles, against N(0, 1)."""
    x = np.linspace(-4, 4, 201)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)

    def draw(figure: Any) -> None:
        axes = figure.subplots(2, len(groups), squeeze=False, sharex=True, sharey="row")
        for (above, below), (name, z) in zip(axes.T, groups.items(), strict=True):
            bins = np.linspace(-4, 4, 81).tolist()
            above.hist(z.numpy(), bins, density=True, color=BLUE, alpha=0.5, label="z")
            above.plot(x, density, color="black", lw=1, label="N(0, 1)")
            moments = f"mean {z.mean():z.2f}, deviation {z.std(correction=0):.2f}"
            above.set_title(f"{name}\n{moments}")
            below.plot([-4, 4], [-4, 4], color="black", lw=1)
            below.plot(*normal_quantiles(z), ".", color=BLUE, ms=4)
            below.set(xlim=(-4.2, 4.2), ylim=(-4.6, 4.6), xlabel="quantile of N(0, 1)")
        axes[0, 0].set_ylabel("density")
        axes[0, 0].legend(loc="upper left", handlelength=1)
        axes[1, 0].set_ylabel("quantile of z")

    return plot(max(5.5, 2.2 * len(groups)), 4.4, draw)


def maps(mean: Array, deviation: Array) -> Picture:
    """Mean and deviation of z at each pixel; the middle colors are the 0 and 1 of N(0, 1)."""

    def draw(figure: Any) -> None:
        panels = (("mean of z", mean, 0.0), ("deviation of z", deviation, 1.0))
        for axes, (title, values, middle) in zip(figure.subplots(1, 2), panels, strict=True):
            reach = max(0.25, float(np.quantile(np.abs(values - middle), 0.99)))
            limits = {"vmin": middle - reach, "vmax": middle + reach}
            image = axes.imshow(values, cmap="RdBu_r", interpolation="nearest", **limits)
            axes.set(title=title, xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            figure.colorbar(image, ax=axes, shrink=0.8)

    return plot(7.5, 3.4, draw)


def distances(groups: Mapping[str, Array]) -> Picture:
    """Histograms of distances to the nearest training image."""
    largest = max(float(values.max()) for values in groups.values())
    bins = np.linspace(0, largest * 1.02 + 1e-9, 41).tolist()

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for (label, values), color in zip(groups.items(), (BLUE, ORANGE), strict=True):
            axes.hist(values, bins, color=color, alpha=0.55, label=label)
        xlabel = "distance to the nearest training image (root mean square, gray levels)"
        axes.set(xlabel=xlabel, ylabel="images")
        axes.legend()

    return plot(6.0, 2.8, draw)


def curves(train: Mapping[str, Array], validation: Mapping[str, Array], unit: str) -> Picture:
    """Training and validation: arrays of step, seconds, value; validation also of error."""
    # The first twentieth of the training would hide the rest.
    shown = np.concatenate([train["value"][len(train["value"]) // 20 :], validation["value"]])
    limits = tuple(limits_of(shown, 0))

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        x_axes = (("step", 1, "step"), ("seconds", 60, "minutes"))
        for axes, (key, scale, label) in zip(panels, x_axes, strict=True):
            axes.plot(train[key] / scale, train["value"], color=BLUE, lw=0.8, label="train")
            x, y, error = validation[key] / scale, validation["value"], validation["error"]
            axes.errorbar(x, y, error, color=ORANGE, lw=1.5, marker=".", label="validation")
            axes.set(xlabel=label, xlim=(0, None), ylim=limits)
            axes.grid(alpha=0.25)
        panels[0].set_ylabel(unit)
        panels[0].legend()

    return plot(8.0, 3.2, draw)


class HeatMap(NamedTuple):
    """An image and where it is anomalous."""

    caption: str
    picture: Array
    """(H, W, C), 0 to 1."""
    fraction: Array
    """(H, W): fraction of normal patches that are more anomalous."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom."""


def heat_maps(maps: Sequence[HeatMap], *, columns: int = 2) -> Picture:
    """Each image, and beside it the image under its map with the box."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    columns = min(columns, len(maps))
    rows, norm = -(-len(maps) // columns), LogNorm(FRACTIONS[-1], FRACTIONS[0], clip=True)

    def draw(figure: Any) -> None:
        panels = figure.subplots(rows, 2 * columns, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for (plain, under), found in zip(panels.reshape(-1, 2), maps, strict=False):
            for axes in (plain, under):
                axes.imshow(found.picture, cmap="gray", vmin=0, vmax=1)
            plain.set_title(found.caption, loc="left")
            opacity = 0.85 * (1 - norm(found.fraction))
            shown = under.imshow(found.fraction, cmap="YlOrRd_r", norm=norm, alpha=opacity)
            left, top, right, bottom = found.box
            corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
            under.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#00c8ff", lw=1.5))
        bar = figure.colorbar(shown, ax=panels)
        bar.set_ticks(FRACTIONS, labels=[f"{100 * fraction:g} %" for fraction in FRACTIONS])
        bar.set_label("normal patches that\nare more anomalous")

    return plot(3.6 * columns + 1.2, 2.1 * rows + 0.2, draw)


class Panel(NamedTuple):
    """Points (N, 2) of one color, over a density on a grid if log_p is not None."""

    title: str
    points: Array
    color: str = BLUE
    log_p: Array | None = None


def panels(
    columns: Sequence[str], grid: Sequence[Array], shown: Sequence[Panel], points_label: str = ""
) -> Picture:
    """Panels of two columns, on common axes, with one legend of densities.

    grid: coordinates, (n,) and (m,), of each log_p, (m, n); their ends are the limits.
    points_label: of the points in the legend.
    """
    from matplotlib import colormaps

    shades = colormaps["Blues"](np.linspace(0.12, 0.95, len(MASSES)))

    def draw(figure: Any) -> None:
        row = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
        for axes, panel in zip(row, shown, strict=True):
            if panel.log_p is not None:
                axes.contourf(*grid, panel.log_p, area_edges(panel.log_p), colors=shades)
            dots(axes, panel.title, panel.points, color=panel.color)
            axes.set(xlim=grid[0][[0, -1]], ylim=grid[1][[0, -1]], xlabel=columns[0])
        row[0].set_ylabel(columns[1])
        for mass, shade in zip(MASSES, shades, strict=True):
            row[-1].plot([], [], "s", color=shade, label=f"{100 * mass:g} %")
        if points_label:
            row[-1].plot([], [], "o", ms=3, color=shown[-1].color, label=points_label)
        keys = row[-1].get_legend_handles_labels()
        figure.legend(*keys, title="mass within", loc="outside right center")

    return plot(3.9 * len(shown) + 1.3, 4.0, draw)


def area_edges(log_p: Array) -> Array:
    """log p on the rims of the smallest areas that hold `MASSES`, ascending, and a bound above."""
    ordered = np.sort(log_p, axis=None)[::-1]
    mass = np.cumsum(np.exp(ordered - ordered[0]))
    edges = ordered[np.searchsorted(mass, np.array(MASSES) * mass[-1])]
    edges = np.maximum.accumulate(edges + 1e-9 * np.arange(len(edges)))
    return np.append(edges, edges[-1] + 1e3)


def both_ways(
    columns: Sequence[str],
    panels: Mapping[str, tuple[Array, Array, Array]],
    limits: Sequence[tuple[Array, Array]],
) -> Picture:
    """Points and grids carried by f and g (figure 1); the color is the direction in z.

    panels: points, their z, and grid lines (2, lines, dots, 2), in x and z in turn.
    limits: corners of the panels of x and of z.
    """

    def draw(figure: Any) -> None:
        from matplotlib.colors import hsv_to_rgb

        quarters = zip(figure.subplots(2, 2).flat, panels.items(), strict=True)
        for i, (axes, (title, (points, z, grid))) in enumerate(quarters):
            hue = np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi) + 0.5
            for line in grid.reshape(-1, *grid.shape[2:]):
                axes.plot(*line.T, color="0.6", lw=0.5, zorder=0)
            hsv = np.stack([hue, np.full_like(hue, 0.85), np.full_like(hue, 0.8)], -1)
            dots(axes, title, points, c=hsv_to_rgb(hsv))
            low, high = limits[i % 2]
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            if i % 2 == 0:
                axes.set(xlabel=columns[0], ylabel=columns[1])

    return plot(7.6, 7.6, draw)


def pairs(columns: Sequence[str], data: Array, samples: Array) -> Picture:
    """Histograms of columns, and the points of each pair of them."""
    count, groups = len(columns), ((data, BLUE), (samples, ORANGE))
    low, high = limits_of(data, 0.002)

    def draw(figure: Any) -> None:
        for (i, j), axes in np.ndenumerate(figure.subplots(count, count, squeeze=False)):
            axes.set(xlim=(low[j], high[j]), visible=i >= j)
            for rows, color in groups:
                if i == j:
                    bins = np.linspace(low[j], high[j], 41).tolist()
                    axes.hist(rows[:, j], bins, density=True, histtype="step", color=color, lw=1.2)
                else:
                    dots(axes, "", rows[:, [j, i]], color=color)
            if i == j:
                axes.set(yticks=[])
            else:
                axes.set(ylim=(low[i], high[i]))
            axes.locator_params(nbins=3)
            axes.ticklabel_format(scilimits=(-3, 5))
            axes.tick_params(labelsize=7)
            axes.set(xlabel=columns[j][:20], ylabel=columns[i][:20] if i > j else "")
            axes.label_outer()
        for label, (_, color) in zip(("data", "samples"), groups, strict=True):
            figure.axes[0].plot([], [], color=color, label=label)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper right")

    return plot(2 * count + 0.5, 2 * count + 0.5, draw)


def limits_of(data: Array, beyond: float) -> tuple[Array, Array]:
    """Lower and upper limits of each column of (N, D), with a tenth of room at each end.

    beyond: the fraction of the data left out at each end.
    """
    low, high = np.quantile(data, [beyond, 1 - beyond], axis=0)
    more = np.where(high > low, (high - low) / 10, 1.0)
    return low - more, high + more


def dots(axes: Any, title: str, points: Array, **color: Any) -> None:
    """Draw points: the more there are, the smaller."""
    size = min(4.0, max(0.3, 6000 / max(1, len(points))))
    axes.scatter(*points.T, s=size, linewidths=0, alpha=0.7, **color)
    axes.set_title(title)
