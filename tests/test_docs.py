"""What the pages say of the code is true: lines of the paper map, rooms, examples in Python."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import realnvp
from tests.mutants import MUTANTS

ROOT = Path(__file__).parents[1]
TUTORIALS = {*(ROOT / "docs" / "tutorials").glob("*.md")}  # make docs runs them
PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").rglob("*.md")} - TUTORIALS)]


def python_blocks(page: Path) -> list[str]:
    """The examples of a page that are marked as Python."""
    return re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.name
)
def test_examples_in_python_run(
    page: Path, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run_dir)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        for block in python_blocks(page):
            exec(compile(block, str(page), "exec"), names)


def test_line_numbers_of_the_paper_map() -> None:
    lines = runpy.run_path(str(ROOT / "docs" / "lines.py"))
    text = (ROOT / "docs" / "paper_map.md").read_text()
    assert lines["renumbered"](text) == text, "run: make lines"


def test_every_mutant_can_be_planted() -> None:
    for mutant in MUTANTS:
        assert mutant.old in (ROOT / "src" / "realnvp" / mutant.file).read_text(), mutant


def test_every_room_is_named() -> None:
    pages = "".join((ROOT / page).read_text() for page in ("README.md", "docs/design.md"))
    named = set(re.findall(r"`(\w+(?:\.py|/))`", pages))
    entries = [
        path
        for path in (ROOT / "src" / "realnvp").iterdir()
        if path.suffix == ".py" or path.is_dir()
    ]
    expected = {
        path.name + "/" * path.is_dir() for path in entries if not path.name.startswith("__")
    }
    assert expected - named == set()


GLOSSARY = ROOT / "docs" / "glossary.md"
LINKED = {  # where they first stand on a page
    "v--u": r"v \+\s+u",
    "dequantization": r"[Dd]equantisation",
    "muon": r"\bMuon\b",
    "moments": r"\bmoments\b",
    "coupling_decay": r"\bcoupling_growth\b",
    "sine_std": r"\bfrequency\b",
}
NO_PROSE = r"\A---\n.*?\n---\n|^```.*?^```$|\$\$.*?\$\$|\*\*[^*]+\*\*|`[^`\n]*`"
NO_PROSE += r"|^(?: {4}|#)[^\n]*$|!?\[[^\[\]]*\]\((?![^)]*glossary)[^)]*\)"


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_words_of_the_glossary_are_linked_where_they_first_stand(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    anchors = {_anchor(title) for title in re.findall(r"^### (.*)$", GLOSSARY.read_text(), re.M)}
    assert {*LINKED, *re.findall(r"glossary\.md#([^)]*)\)", text)} <= anchors
    if page == GLOSSARY:
        return
    prose = re.sub(NO_PROSE, "", text, flags=re.M | re.S)
    for word, pattern in LINKED.items():
        if first := re.search(f"(?<!#)(?:{pattern})", prose):
            link = re.search(rf"\[[^\[\]]*\]\([./\w]*glossary\.md#{word}\)", prose)
            linked = link is not None and link.start() <= first.start()
            assert linked, f"{page}: link '{first[0]}' to glossary.md#{word} where it first stands"


def _anchor(title: str) -> str:
    """As GitHub and MyST name a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 900


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {realnvp.__version__}\n" in (ROOT / "CITATION.cff").read_text()
