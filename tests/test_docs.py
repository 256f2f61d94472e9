"""What the pages say of the code is true: lines of the paper map, files of the file map."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_line_numbers_of_the_paper_map() -> None:
    lines = runpy.run_path(str(ROOT / "docs" / "lines.py"))
    text = (ROOT / "docs" / "paper_map.md").read_text()
    assert lines["renumbered"](text) == text, "run: make lines"


def test_every_module_is_in_the_file_map() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`((?:src/realnvp/)?[\w/]+(?:\.py|/))`", readme))
    names = {entry.removeprefix("src/realnvp/") for entry in named}
    modules = [path for path in (ROOT / "src" / "realnvp").iterdir() if path.suffix == ".py" or path.is_dir()]
    expected = {path.name + "/" * path.is_dir() for path in modules if not path.name.startswith("__")}
    assert expected - names == set()
