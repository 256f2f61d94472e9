"""A table's file, .csv (.tsv), .npy or .parquet: float64 rows, named columns."""

import csv
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from realnvp.config import nearest
from realnvp.config.words import count_of, listed, quoted, reason
from realnvp.data.images import why_no_file
from realnvp.data.prepared import open_npy
from realnvp.tools.progress import progress

Reals = npt.NDArray[np.float64]
Columns = tuple[str, ...]
Choose = Callable[[Sequence[str]], list[int]]
"""From the names of all columns to the places of those to take."""
SUFFIXES = (".csv", ".npy", ".parquet")
MISSING = frozenset(["", "na", "n/a", "nan", "null", "none", "?"])
LARGEST = float(np.finfo(np.float32).max)  # weights are float32: the mean of a column among them
SPOKEN_OF = 2**24  # bytes of a file that takes seconds to read
LISTED = 10  # columns that one line names


def read_table(
    path: Path, columns: Columns | None = None, drop: Columns | None = None
) -> tuple[Reals, Columns]:
    """The rows of a table, (N, D), and the names of its columns.

    columns: the columns to take, in this order. None: all.
    drop: columns to leave out. In both, "a,b" is two columns if none is called that.

    A .csv has a header, unless its first line is numbers; then, and in an .npy, the columns are
    x1, x2, ...
    ValueError names all columns that are missing, no numbers or not finite, with the first such
    row (1 is the first).
    """
    _check_file(path)
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".npy": _read_npy, ".parquet": _read_parquet}
    choose = partial(_chosen, path, columns=columns, drop=drop)
    with progress(f"reading {path.name}", 0, enabled=path.stat().st_size > SPOKEN_OF):
        rows, names, bad = readers[path.suffix.lower()](path, choose)
    for i, name in enumerate(names):
        finite = np.isfinite(rows[:, i])
        if name not in bad and not finite.all():
            kind = "missing" if np.isnan(rows[:, i]).any() else "infinite"
            count = int((~finite).sum())
            bad[name] = (
                f"has {count_of(count, f'{kind} value')}, "
                f"first in row {np.flatnonzero(~finite)[0] + 1:,}"
            )
        elif name not in bad and (large := np.abs(rows[:, i]) > LARGEST).any():
            row = int(np.flatnonzero(large)[0])
            bad[name] = (
                f"has {rows[row, i]:g} in row {row + 1:,}, beyond {LARGEST:.1g}; "
                "a mark of missing values?"
            )
    refuse_columns(path, bad)
    if not rows.size:
        raise ValueError(f"{path}: has no rows")
    return rows, names


def columns_of(path: Path) -> Columns:
    """The names of all columns of a table."""
    _check_file(path)
    if path.suffix.lower() == ".npy":
        return tuple(_numbered(open_npy(path).shape[-1]))
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        return tuple(parquet.read_schema(path).names)
    with open_csv(path) as file:
        return tuple(_header(path, file)[1])


@contextmanager
def open_csv(path: Path) -> Iterator[TextIO]:
    """Context: a .csv file to read. ValueError names it: its text is not UTF-8, or no CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}; save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from None


def read_cells(path: Path, names: Columns) -> dict[str, list[str]]:
    """The text of each row in each of these columns, stripped; '' where a value is missing.

    ValueError: the file cannot be read, or has no such column.
    """
    _check_file(path)
    choose = partial(_chosen, path, columns=names, drop=None)
    if path.suffix.lower() == ".npy":
        rows, found, _ = _read_npy(path, choose)
        return {name: [*map(_as_text, rows[:, i])] for i, name in enumerate(found)}
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        there = parquet.read_schema(path).names
        read = parquet.read_table(path, columns=[there[i] for i in choose(there)])
        return {name: [*map(_as_text, read.column(name).to_pylist())] for name in names}
    return _cells_of_csv(path, choose)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a table in it")
    if not path.is_file():
        raise ValueError(f"{path}: {why_no_file(path)}")
    if path.suffix.lower() not in (*SUFFIXES, ".tsv"):
        raise ValueError(f"{path}: no table that can be read ({' '.join(SUFFIXES)})")


def _as_text(value: Any) -> str:
    """A value as a .csv has it."""
    if value is None or value != value:
        return ""
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value).strip()


def refuse_columns(path: Path, bad: dict[str, str]) -> None:
    """ValueError names the columns and what is wrong with each, if there are any."""
    if bad:
        words = listed(
            [f"column {name!r} {what}" for name, what in bad.items()], LISTED, "columns more"
        )
        raise ValueError(
            f"{path}: {words} (--data.columns names the columns to take, "
            "--data.drop those to leave out)"
        )


def _chosen(
    path: Path, there: Sequence[str], *, columns: Columns | None, drop: Columns | None
) -> list[int]:
    """Where the wanted columns stand among those that are there."""
    if twice := next((name for name in there if list(there).count(name) > 1), None):
        raise ValueError(f"{path}: two columns are called {twice!r}")
    taken = there if columns is None else names_in(columns, there)
    dropped = names_in(drop or (), there)
    for name in (*taken, *dropped):
        if name not in there:
            raise ValueError(
                f"{path}: no column {name!r}{nearest(name, there)}; there are {quoted(there)}"
            )
    if len({*taken}) < len(taken):
        raise ValueError(f"data.columns: {quoted(taken)}: one of them twice")
    if not (left := [list(there).index(name) for name in taken if name not in dropped]):
        raise ValueError(f"{path}: no column is left")
    return left


def names_in(given: Sequence[str], there: Sequence[str]) -> Columns:
    """The names of columns in a command's words, where "a,b" may be two."""
    return tuple(name for word in given for name in _names(word, there))


def _names(word: str, there: Sequence[str]) -> list[str]:
    parts = [part.strip() for part in word.split(",")]
    return [word] if word in there or {*parts}.isdisjoint(there) else parts


def _numbered(count: int) -> list[str]:
    """Names for columns that have none."""
    return [f"x{i + 1}" for i in range(count)]


def _read_npy(path: Path, choose: Choose) -> tuple[Reals, Columns, dict[str, str]]:
    array = open_npy(path)
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise ValueError(
            f"{path}: {array.dtype} of shape {array.shape}; numbers of shape (rows, "
            "columns) are needed"
        )
    there = _numbered(array.shape[1])
    chosen = choose(there)
    return np.array(array[:, chosen], np.float64), tuple(there[i] for i in chosen), {}


def _read_parquet(path: Path, choose: Choose) -> tuple[Reals, Columns, dict[str, str]]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        there = parquet.read_schema(path).names
        chosen = [there[i] for i in choose(there)]
        read = parquet.read_table(path, columns=chosen)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: {reason(error)}") from None
    rows, bad = np.full((read.num_rows, len(chosen)), np.nan), {}
    for i, name in enumerate(chosen):
        kind = read.schema.field(name).type
        if arrow.types.is_integer(kind) or arrow.types.is_floating(kind):
            rows[:, i] = read.column(name).to_numpy()
        else:
            bad[name] = f"holds {kind}, no numbers"
    return rows, tuple(chosen), bad


def _read_csv(path: Path, choose: Choose) -> tuple[Reals, Columns, dict[str, str]]:
    with open_csv(path) as file:
        delimiter, there, reader = _header(path, file)
        chosen = choose(there)
        rows = _all_numbers(path, len(there), delimiter=delimiter, skiprows=reader.line_num)
        if rows is not None:
            return rows[:, chosen], tuple(there[i] for i in chosen), {}
        return _cell_by_cell(path, reader, there, chosen, delimiter=delimiter)


def _cells_of_csv(path: Path, choose: Choose) -> dict[str, list[str]]:
    with open_csv(path) as file:
        delimiter, there, reader = _header(path, file)
        chosen = choose(there)
        found: dict[str, list[str]] = {there[i]: [] for i in chosen}
        for cells in filter(_is_row, reader):
            _check_length(path, reader, cells, there)
            for i in chosen:
                found[there[i]].append(_with_point(cells[i], delimiter))
        return found


def _header(path: Path, file: TextIO) -> tuple[str, list[str], Any]:
    """The delimiter of a .csv, the names of its columns, and a reader of its rows."""
    delimiter = max(";\t,", key=lambda mark: _fit_of(file, mark))
    there, reader = _first_row(file, delimiter)
    if not there:
        raise ValueError(f"{path}: has no rows")
    # Numbers and missing values alone are no header.
    kinds = [_is_number(_with_point(cell, delimiter)) for cell in there]
    if any(kinds) and all(
        number or cell.lower() in MISSING for number, cell in zip(kinds, there, strict=True)
    ):
        there = _numbered(len(there))
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
    return delimiter, there, reader


def _check_length(path: Path, reader: Any, cells: list[str], there: Sequence[str]) -> None:
    if len(cells) != len(there):
        raise ValueError(
            f"{path}: line {reader.line_num} has {len(cells)} cells, the first {len(there)}"
        )


def _fit_of(file: TextIO, delimiter: str) -> tuple[int, int]:
    """How well a delimiter fits a .csv: numbers in its second line, then cells in its first."""
    first, reader = _first_row(file, delimiter)
    second: list[str] = next(filter(_is_row, reader), [])
    return sum(_is_number(_with_point(cell, delimiter)) for cell in second), len(first)


def _with_point(cell: str, delimiter: str) -> str:
    """A number with a decimal comma as one with a point, where commas divide no cells."""
    cell = cell.strip()
    decimal = delimiter != "," and re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", cell)
    return cell.replace(",", ".") if decimal else cell


def _first_row(file: TextIO, delimiter: str) -> tuple[list[str], Any]:
    """The cells of the first line of a .csv that is not blank, and the reader after it."""
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter)
    return [cell.strip() for cell in next(filter(_is_row, reader), [])], reader


def _is_row(cells: list[str]) -> bool:
    """Whether a line of a .csv is not blank."""
    return len(cells) > 1 or any(cell.strip() for cell in cells)


def _all_numbers(path: Path, count: int, **form: Any) -> Reals | None:
    """The cells of a .csv by numpy's quick reader. None: a cell is no number."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input contained no data")
            rows = np.loadtxt(
                path, comments=None, quotechar='"', encoding="utf-8-sig", ndmin=2, **form
            )
    except ValueError:
        return None
    return rows if rows.shape[1] == count else None


def _cell_by_cell(
    path: Path, reader: Any, there: Sequence[str], chosen: list[int], *, delimiter: str
) -> tuple[Reals, Columns, dict[str, str]]:
    """The rows, read cell by cell, NaN if missing; and the first text in each column with text."""
    rows: list[list[float]] = []
    bad: dict[str, str] = {}
    marks: dict[str, str] = {}
    for cells in filter(_is_row, reader):
        _check_length(path, reader, cells, there)
        rows.append([])
        for i in chosen:
            cell = cells[i].strip()
            plain = _with_point(cell, delimiter)
            number = _is_number(plain)
            if number and "." in plain:
                marks.setdefault("," if plain != cell else ".", f"{cell!r} in row {len(rows):,}")
            if not number and cell.lower() not in MISSING:
                bad.setdefault(there[i], f"holds text, {cell[:40]!r} in row {len(rows):,} first")
            rows[-1].append(float(plain) if number else np.nan)
    if len(marks) > 1:
        raise ValueError(
            f"{path}: decimal commas and points, {marks[',']} and {marks['.']}; write one kind"
        )
    return np.array(rows, np.float64).reshape(-1, len(chosen)), tuple(there[i] for i in chosen), bad


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 12_34 as a number; here it is a name
