"""One self-contained HTML page about odd images."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realnvp.evaluation.report import PAGE
from realnvp.files.atomic import write_file
from realnvp.odd.verdicts import Verdict

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
