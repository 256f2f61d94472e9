"""One self-contained HTML page about a run: no request leaves it, and it opens from disk."""

import base64
import html
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from realnvp.config import Config, TableData, departures, flat
from realnvp.evaluation.record import Evaluation, OfImages
from realnvp.io.files import write_text
from realnvp.io.run_dir import Session
from realnvp.templates import render

# What to look for in a picture, by the longest key that its file's name begins with.
SENTENCES = {
    "classes": (
        "A row for each class: a column of samples has the same latents, so what stays alike down "
        "a column is what the flow does not hold for part of the class."
    ),
    "samples": (
        "Data beside samples: look at colors and textures first, then at shapes, which come last."
    ),
    "samples-temperature": (
        "The same latents at lower temperatures: calmer images, no longer exact samples of "
        "the model."
    ),
    "manifold": (
        "Four images (red) span a grid of latents (eq 14): all between them should look like "
        "plausible images."
    ),
    "extrapolation": (
        "Larger samples, same weights: what the flow knows as texture goes on, what it knows "
        "as layout does not."
    ),
    "compression": (
        "The coarsest latents are kept, the rest is drawn anew; the first column is the "
        "image itself."
    ),
    "latents": (
        "Latents of test images against N(0, 1): what leaves the diagonal is what the flow "
        "has not learned."
    ),
    "latents-maps": (
        "Mean and deviation of the latents at each pixel: 0 and 1 everywhere for a perfect flow."
    ),
    "latents-bits": (
        "Where the bits go: what is unusual in an image, or busy, costs more than what is smooth."
    ),
    "latents-extremes": (
        "The likeliest and the least likely test images: smooth ones cost few bits, unusual "
        "ones many."
    ),
    "latents-neighbors": (
        "Samples beside the training images nearest to them: a copy would mean that the flow "
        "memorized."
    ),
    "latents-distances": (
        "Distances to the nearest training image: samples much nearer than test images would "
        "be memorized."
    ),
    "": "Another picture of the run.",
    "density": (
        "Data, density, samples: mass between the parts of the data, or edges made soft, is "
        "what it has not learned."
    ),
    "map": (
        "The paper's figure 1: data and their latents above, samples and theirs below; the "
        "grid shows where f stretches."
    ),
    "conditional": (
        "The density of two columns given the condition of three test rows; dots are the test rows "
        "whose conditions are nearest."
    ),
    "pairs": "Data and samples in each pair of columns: they should be hard to tell apart.",
    "curves": (
        "The number over training: validation that gets worse while training gets better is "
        "overfitting."
    ),
}


def report(
    run: Path,
    config: Config,
    result: Evaluation,
    pictures: Iterable[Path],
    sessions: list[Session],
    *,
    seed: int,
    missing: Iterable[tuple[str, str]] = (),
    context: str | None = None,
) -> Path:
    """Write RUN/report.html: results, pictures and how to make them, configuration, environment.

    result: the run's evaluation.
    pictures: PNG files; they are embedded.
    sittings: the run's, the last one at the end.
    seed: of the pictures.
    missing: figures that could not be drawn, and why; the page says so in their place.
    given: the class that most figures are of.

    All text is escaped.
    """
    title = run.resolve().name
    parts = [f"<h1>{_text(title)}</h1>", _results(result, config), _command(result.command(run))]
    if context is not None:
        of_class = f"Figures are of the class {context} alone, but for classes and curves."
        parts.append(f"<p>{_text(of_class)}</p>")
    how = ["--seed", str(seed), *(["--which", "last"] if result.which == "last" else [])]
    figures = [(path.stem, _picture(path)) for path in pictures]
    figures += [(name, f"<p>Left out: {_text(why)}.</p>") for name, why in missing]
    for name, content in sorted(
        figures, key=lambda figure: (list(SENTENCES).index(_kind(figure[0])), figure[0])
    ):
        command = ["realnvp", "figures", str(run), "--only", name.split("-")[0], *how]
        parts.append(f"<h2>{_text(name)}</h2>{content}{_command(shlex.join(command))}")
    parts += [
        *("<h2>Configuration</h2>", _table(flat(config)), _command(sessions[-1].shell_command)),
        *("<h2>Environment</h2>", _table(_environment(sessions))),
    ]
    page = run / "report.html"
    if page.exists() and "<title>realnvp: " not in page.read_text(
        encoding="utf-8", errors="replace"
    ):
        raise ValueError(f"{page}: was not written by this program, so it is not replaced")
    write_text(page, render("base.html", title=f"realnvp: {title}", body=Markup("\n".join(parts))))
    return page


def _results(result: Evaluation, config: Config) -> str:
    meaning = "The mean of log p in the units of the columns."
    if isinstance(config.data, TableData) and config.data.context_columns:
        meaning = f"Given {', '.join(config.data.context_columns)}. {meaning}"
    rows: dict[str, Any] = {"standard error over": result.standard_error_over}
    if isinstance(result, OfImages):
        meaning = f"An upper bound ({config.model.dequantization} dequantization)."
        rows["noise draws"] = result.noise_draws
        if result.classes:
            meaning = f"Given the class of each image. {meaning}"
            rows |= result.classes.as_rows()
        if result.views:
            rows[f"averaged over {result.views.count} views"] = result.views.measured
        if result.file_bits_per_dim is not None:
            rows["the flow's own file"] = f"{result.file_bits_per_dim:.3f} bits/dim"
        for name, value in (result.codecs or {}).items():
            rows[f"lossless {name}"] = f"{value:.3f} bits/dim"
        if result.paper is not None:
            rows["the paper"] = f"{result.paper:.2f} bits/dim"
        elif fields := departures(config):
            rows["departs from the paper in"] = ", ".join(fields)
    return (
        f'<p class="number">{_text(result.measured)}</p>'
        f"<p>{_text(f'{result.data}, {result.things} of the {result.split} split')}. {meaning}</p>"
        f"{_table(rows)}"
    )


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f"<p>{SENTENCES[_kind(path.stem)]}</p>"
        f'<figure><img alt="{_text(path.stem)}" src="data:image/png;base64,{data}"></figure>'
    )


def _kind(name: str) -> str:
    return max((kind for kind in SENTENCES if name.startswith(kind)), key=len, default="")


def _environment(sessions: list[Session]) -> dict[str, Any]:
    last = sessions[-1]
    return {
        "sittings": len(sessions),
        "versions": ", ".join(f"{name} {version}" for name, version in last.versions.items()),
    } | {key: getattr(last, key) for key in ("time", "platform", "processor", "threads")}


def _table(rows: dict[str, Any]) -> str:
    return (
        "<table>"
        + "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in rows.items())
        + "</table>"
    )


def _command(command: str) -> str:
    return f"<p><code>{_text(command)}</code></p>"


def _text(value: Any) -> str:
    return html.escape(str(value))
