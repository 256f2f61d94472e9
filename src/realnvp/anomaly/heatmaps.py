"""Heat maps of images, and one self-contained HTML page about the most anomalous images."""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from realnvp.anomaly.detector import Array
from realnvp.evaluation.score import ImageFiles, Score
from realnvp.figures.grids import HeatMap, heat_map, png, save_png
from realnvp.io.files import write_text
from realnvp.templates import render


def draw_maps(
    results: Iterable[tuple[Score, Array]], images: ImageFiles, *, folder: Path | None, top: int
) -> tuple[list[Score], list[HeatMap]]:
    """All scores, and the heat maps of the most anomalous images, in falling order of anomaly.

    results: of `AnomalyDetector.results` for these images.
    folder: for a heat map of each image, named as its file; None: none is written.
    top: number of heat maps to return.
    """
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    scores: list[Score] = []
    kept: list[tuple[float, int, HeatMap]] = []
    for index, (score, fractions) in enumerate(results):
        assert score.box is not None and score.score is not None  # noqa: PT018
        scores.append(score)
        pixels = images[index].astype(np.float32) * (255 / (images.config.levels - 1))
        picture = pixels.round().astype(np.uint8).transpose(1, 2, 0)
        verdict = "anomalous" if score.anomalous else "normal"
        caption = f"{Path(score.path).name}: {verdict}, p = {score.p_value:.3g}"
        found = HeatMap(caption, picture, fractions, score.box)
        if folder:
            path = folder / f"{Path(score.path).stem}.png"
            if any(Path(other.path).stem == path.stem for other in scores[:-1]):
                path = path.with_stem(f"{path.stem}-{index}")
            save_png(path, heat_map(found), optimize=False)
        kept = sorted([*kept, (score.score, index, found)])[:top]
    return scores, [found for _, _, found in kept]


def write_page(
    path: Path,
    title: str,
    summary: str,
    maps: Sequence[HeatMap],
    scores: Sequence[Score],
    command: str,
) -> None:
    """Write a page with heat maps, and the scores of the same images.

    command: the command line that made the page.
    """
    entries = [
        (score, found.caption, base64.b64encode(png(heat_map(found))).decode())
        for score, found in zip(scores, maps, strict=False)
    ]
    page = render("anomaly.html", title=title, summary=summary, command=command, entries=entries)
    write_text(path, page)
