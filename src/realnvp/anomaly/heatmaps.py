"""One self-contained HTML page about odd images."""

import base64
import heapq
import html
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from realnvp.anomaly.detector import Array, Finding
from realnvp.anomaly.rows import Verdict
from realnvp.config.errors import ParameterError
from realnvp.evaluation.report import PAGE
from realnvp.figures.grids import HeatMap, Picture, contact_sheet, heat_map, save_png
from realnvp.flows.flow import Flow, config_of
from realnvp.io.files import write_file


class _Kept(NamedTuple):
    oddness: float
    number: int
    verdict: Verdict
    map: HeatMap


class Shown:
    """Shows images as they are found, and the oddest of them at the end.

    top: how many are kept for the end.
    folder: for a heat map of each image, NAME.png. None: none is written.
    sheet: a picture of the oddest. None: none is written.
    page: about the oddest. None: none is written.

    ValueError: something else is in the place of the folder or the page.
    """

    def __init__(
        self, flow: Flow, top: int, *, folder: Path | None, sheet: Path | None, page: Path | None
    ) -> None:
        if folder and folder.exists() and not folder.is_dir():
            raise ParameterError("heatmaps", f"{folder} is a file; name a folder")
        if page:
            check_page(page)
        self.top, self.folder, self.sheet, self.page = top, folder, sheet, page
        self._levels = config_of(flow).levels
        self._kept: list[_Kept] = []
        self._names: set[str] = set()
        self._count = itertools.count()

    def add(self, verdict: Verdict, image: Array, finding: Finding) -> None:
        """Show an image, (C, H, W)."""
        pixels = image.astype(np.float32) * (255 / (self._levels - 1))
        picture = pixels.round().astype(np.uint8).transpose(1, 2, 0)
        found = HeatMap(words(verdict), picture, finding.map, verdict.box)
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_png(self.folder / self._name(verdict.path), heat_map(found), optimize=False)
        kept = _Kept(-verdict.score, next(self._count), verdict, found)
        (heapq.heappush if len(self._kept) < self.top else heapq.heappushpop)(self._kept, kept)

    def oddest(self) -> list[_Kept]:
        """The images that are kept, the oddest first."""
        return sorted(self._kept, key=lambda kept: (-kept.oddness, kept.number))

    def words(self) -> str:
        """The oddest in lines."""
        return "\n".join(words(kept.verdict) for kept in self.oddest())

    def finish(self, *, run: str, last_line: str, command: str) -> None:
        """Write the sheet and the page."""
        oddest = self.oddest()
        if self.sheet:
            save_png(self.sheet, contact_sheet([kept.map for kept in oddest]))
        if self.page:
            pictures: dict[str, Picture] = {
                kept.verdict.path: heat_map(kept.map) for kept in oddest
            }
            verdicts = [kept.verdict for kept in oddest]
            write_page(self.page, run, last_line, verdicts, pictures, command)

    def _name(self, path: str) -> str:
        """A name for the heat map of a file; of two files of one name the second is NAME-2."""
        stem, name, count = Path(path).stem, f"{Path(path).stem}.png", 1
        while name in self._names:
            count += 1
            name = f"{stem}-{count}.png"
        self._names.add(name)
        return name


def words(verdict: Verdict) -> str:
    """'ODD a.png, p = .002, at 12 40 36 64'."""
    return (
        f"{'ODD ' if verdict.odd else ''}{Path(verdict.path).name}, p = {verdict.p_value:.3g}, "
        f"at {' '.join(map(str, verdict.box))}"
    )


if TYPE_CHECKING:
    import PIL.Image

MARK = "<title>realnvp odd images: "


def check_page(page: Path) -> None:
    """ValueError if a file that is not such a page is in its place."""
    if page.exists() and MARK not in page.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{page}: was not written by this command, so it is not replaced")


def write_page(
    page: Path,
    run: str,
    last_line: str,
    oddest: Sequence[Verdict],
    pictures: "Mapping[str, PIL.Image.Image]",
    command: str,
) -> None:
    """Write the page.

    last_line: the verdict on all images, in one sentence.
    oddest: the images that are shown, the oddest first.
    pictures: their heat maps, by path.
    """
    parts = [
        f"<h1>Odd images, by {_text(run)}</h1>",
        f'<p class="number">{_text(last_line)}</p>',
        "<p>Each map shows how many places of normal images are odder: the darker, the fewer. The "
        "box is around the oddest place. p is the share of normal images that are as odd, at most: "
        "of new normal images no more than the rate is called odd, on average. It says how unusual "
        "an image is, not what is wrong with it.</p>",
        f"<p><code>{_text(command)}</code></p>",
    ]
    for number, entry in enumerate(oddest, 1):
        word = "odd" if entry.odd else "usual"
        parts.append(
            f"<h2>{number}. {_text(entry.path)}</h2>"
            f"<p>{word}, p = {entry.p_value:.4g}; {entry.bits_per_dim:.3f} bits/dim, more than "
            f"{entry.percentile:.0f} % of the normal images; oddest place: "
            f"{', '.join(map(str, entry.box))}</p>"
            f'<figure><img alt="{_text(entry.path)}" '
            f'src="{_source(pictures[entry.path])}"></figure>'
        )
    title = _text(f"realnvp odd images: {run}")
    write_file(page, PAGE.format(title=title, body="\n".join(parts)))


def _source(picture: "PIL.Image.Image") -> str:
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _text(value: object) -> str:
    return html.escape(str(value))
