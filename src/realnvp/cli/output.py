"""What commands print: tables for people, one JSON object for programs."""

import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def visible(text: str) -> str:
    """Escape what a terminal would not show but obey, such as \\x1b.

    File names and other people's folders can hold such characters.
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def say(text: str) -> None:
    """Lines for people on stdout."""
    print(visible(text))


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on stdout; numbers that are not finite become null, since JSON has none."""
    print(json.dumps(_finite(values), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def print_csv(text: str) -> None:
    """Print the text of a CSV file.

    File names are printed as they are, but for a terminal with escapes, as `ls` does.
    """
    if sys.stdout.isatty():
        print(visible(text), end="")
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # It is strict about what is not UTF-8, which a name may hold.
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
    else:
        print(text, end="")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; nothing is cut off, whatever the terminal's width.

    Elsewhere than on a terminal lines end where their text ends.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD, show_header=any(columns))
    for row in rows:
        table.add_row(*map(visible, row))
    on_terminal = sys.stdout.isatty()
    console = Console(width=None if on_terminal else 400, highlight=False, markup=False)
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        print(line if on_terminal else line.rstrip())


def thousands(number: int) -> str:
    """19_609_545 -> '19.61 M'; small numbers as they are."""
    return f"{number / 1e6:.2f} M" if number >= 10_000 else str(number)


def note(text: str) -> None:
    """A line for people beside the result, on stderr."""
    print(visible(text), file=sys.stderr)
