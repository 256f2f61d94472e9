"""Plots by matplotlib as Pillow images: without pyplot, so no window and not the user's style."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from realnvp.evaluation.figures.grids import DOTS_PER_INCH, Array, Picture

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
        for (label, values), colour in zip(groups.items(), (BLUE, ORANGE), strict=True):
            axes.hist(values, bins=bins, color=colour, alpha=0.55, label=label)
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
