"""Bring the `path:line symbol` references of docs/paper_map.md up to date: python docs/lines.py.

--check: only look.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "paper_map.md"
REFERENCE = re.compile(r"`(?P<path>[\w/]+\.py):(?P<line>\d+) (?P<symbol>[\w.]+)`")


def line_of(path: Path, symbol: str) -> int:
    """The line, from 1, that defines a function, class, method (Class.method), constant or field.

    ValueError: no line does.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    at = 0
    for part in symbol.split("."):
        definition = re.compile(
            rf"\s*(def|class) {part}\b|\s*{part}\b(:.*)? =|\s*(self\.)?{part}: "
        )
        at = next((i for i in range(at, len(lines)) if definition.match(lines[i])), -1)
        if at < 0:
            raise ValueError(f"{path}: no {symbol}")
    return at + 1


def renumbered(text: str) -> str:
    """The text with every reference at its symbol's line."""

    def renew(match: re.Match[str]) -> str:
        path, symbol = match["path"], match["symbol"]
        return f"`{path}:{line_of(ROOT / path, symbol)} {symbol}`"

    return REFERENCE.sub(renew, text)


if __name__ == "__main__":
    old = PAGE.read_text(encoding="utf-8")
    new = renumbered(old)
    if "--check" in sys.argv:
        sys.exit(0 if new == old else "docs/paper_map.md: line numbers are old; run make lines")
    PAGE.write_text(new, encoding="utf-8")
