"""The documentation names commands, flags, files and links that exist, and its examples run."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import realnvp
from realnvp.cli.main import COMMANDS, run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = ROOT / "docs" / "tutorials"  # run when the documentation is built
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
COMMAND = re.compile(r"(?:^|`|    )realnvp ((?:[a-z][\w-]*)(?:\\\n|[^`\n])*)", re.MULTILINE)


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", TEXT[page], re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if python_blocks(page) and page.parent != TUTORIALS],
    ids=lambda page: page.name,
)
def test_python_examples_run(
    page: Path, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run_dir)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        for block in python_blocks(page):
            exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_flags_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in COMMAND.findall(TEXT[page]):
        words = shlex.split(
            text.replace("\\\n", " ").split(" && ")[0].split(" | ")[0], comments=True
        )
        assert words[0] in COMMANDS, text
        command = words[:2] if words[0] == "train" and len(words) > 1 else words[:1]
        if command[-1] in ("PRESET", "--config", "..."):
            command = ["train", "photos"]
        assert run([*command, "--help"]) == 0, text
        help_text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
        for flag in re.findall(r"(?<!\S)--[\w.-]+", " ".join(words)):
            assert f"{flag} " in help_text or f"{flag}," in help_text, (
                f"{page.name}: {text}: {flag}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", TEXT[page]):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_that_are_named_exist() -> None:
    for page, text in TEXT.items():
        for name in re.findall(r"`((?:tests|benchmarks|examples|docs)/[\w/]+\.\w+)`", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {realnvp.__version__}\n" in (ROOT / "CITATION.cff").read_text()
