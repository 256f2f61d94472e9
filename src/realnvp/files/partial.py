"""A table that grows beside the file that it will become."""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def partial_path(out: Path) -> Path:
    """Where the rows of a table are, until it is whole: FILE.partial."""
    return out.with_name(f"{out.name}.partial")


@contextmanager
def growing(out: Path | None, columns: Sequence[str]) -> Iterator[Callable[..., None]]:
    """Context: a function that appends a row to FILE.partial, and to the disk at once.

    What has been written stays if the process is ended. Afterwards, when `out` itself is written,
    the file is deleted.

    out: the file that the table will become. None: nothing is written.
    columns: the first row.

    ValueError: FILE.partial is something else.
    """
    if out is None:
        yield lambda *row: None
        return
    path = partial_path(out)
    if path.exists() and not path.read_bytes().startswith(b"path,"):
        raise ValueError(f"{path}: was not written by this command, so it is not replaced")
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)

        def append(*row: Any) -> None:
            table.writerow(row)
            file.flush()

        yield append
    path.unlink()
