"""The user's own table, .csv, .npy, .parquet, or a folder of them: float64 rows, named columns."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from realnvp.config import DataConfig, nearest
from realnvp.config.words import listed, reason
from realnvp.data.dataset import Dataset, cut_off
from realnvp.data.folder import split_entries, wanted
from realnvp.data.prepared import open_npy

Reals = npt.NDArray[np.float64]
Columns = tuple[str, ...]
SUFFIXES = (".csv", ".npy", ".parquet")
MISSING = frozenset(["", "na", "n/a", "nan", "null", "none", "?"])
LARGEST = float(np.finfo(np.float32).max)  # weights are float32: the mean of a column among them
LISTED = 10  # columns that one line names


def table(config: DataConfig, *, seed: int) -> Dataset:
    """The table of data.source; without splits, its rows are split by the seed's permutation.

    ValueError names all bad columns: missing, text, not finite, or constant in training.
    """
    if not config.source:
        raise ValueError(
            "data.source: table needs a .csv, .npy or .parquet file of numbers, "
            "or a folder of train, test ..."
        )
    source = Path(config.source).expanduser()
    read, columns = _scan(source, config.columns)
    splits = cut_off(read, config.held_out, seed=seed)
    train = splits["train"][:]
    if len(columns) < 2:
        raise ValueError(
            f"{source}: has one column; a coupling changes some columns by the others, "
            "so two are needed"
        )
    _refuse(
        source,
        {
            columns[i]: f"is {train[0, i]:g} in all training rows"
            for i in np.flatnonzero((train == train[0]).all(0))
        },
    )
    _warn_of_unbounded(source, train, columns)
    return Dataset(config.set, source.name, None, (len(columns),), splits, columns=columns)


def find_rows(source: Path, split: str, columns: Columns | None) -> tuple[Dataset, str]:
    """A table outside any run, and the split to take: "all" where the source has no splits.

    ValueError names what is wrong with the columns, or says which splits there are.
    """
    read, columns = _scan(source, columns)
    splits, split = wanted({**read}, split, source)
    return Dataset(
        str(source), None, None, (len(columns),), splits, comparable=False, columns=columns
    ), split


def read_table(path: Path, columns: Columns | None = None) -> tuple[Reals, Columns]:
    """The rows of a table, (N, D), and the names of its columns.

    columns: the columns to take, in this order. None: all.

    A .csv has a header, unless its first line is numbers; then, and in an .npy, the columns are
    x1, x2, ...
    ValueError names all columns that are missing, no numbers or not finite, with the first such
    row (1 is the first).
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: {'is a folder; name a table in it' if path.is_dir() else 'no such file'}"
        )
    readers = {".csv": _read_csv, ".npy": _read_npy, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: no table that can be read ({' '.join(SUFFIXES)})")
    rows, names, bad = readers[path.suffix.lower()](path, columns)
    for i, name in enumerate(names):
        finite = np.isfinite(rows[:, i])
        if name not in bad and not finite.all():
            kind = "missing" if np.isnan(rows[:, i]).any() else "infinite"
            bad[name] = (
                f"has {(~finite).sum():,} {kind} values, "
                f"first in row {np.flatnonzero(~finite)[0] + 1:,}"
            )
        elif name not in bad and (large := np.abs(rows[:, i]) > LARGEST).any():
            row = int(np.flatnonzero(large)[0])
            bad[name] = (
                f"has {rows[row, i]:g} in row {row + 1:,}, beyond {LARGEST:.1g}; "
                "a mark of missing values?"
            )
    _refuse(path, bad)
    if not rows.size:
        raise ValueError(f"{path}: has no rows")
    return rows, names


def _scan(source: Path, columns: Columns | None) -> tuple[dict[str, Reals], Columns]:
    """The rows of each split in the source, train at least, and the names of train's columns."""
    files = {"train": source}
    if source.is_dir() and not (
        files := split_entries(
            {path.stem: path for path in source.iterdir() if path.suffix.lower() in SUFFIXES},
            source,
        )
    ):
        raise ValueError(f"{source}: holds no train{', train'.join(SUFFIXES)}")
    train, columns = read_table(files["train"], columns)
    return {"train": train} | {
        split: read_table(files[split], columns)[0] for split in files if split != "train"
    }, columns


def _refuse(path: Path, bad: dict[str, str]) -> None:
    """ValueError names the columns and what is wrong with each, if there are any."""
    if bad:
        words = listed(
            [f"column {name!r} {what}" for name, what in bad.items()], LISTED, "columns more"
        )
        raise ValueError(f"{path}: {words} (--data.columns names the columns to take)")


def _chosen(path: Path, there: Sequence[str], columns: Columns | None) -> list[int]:
    """Where the wanted columns stand among those that are there."""
    if twice := next((name for name in there if list(there).count(name) > 1), None):
        raise ValueError(f"{path}: two columns are called {twice!r}")
    if missing := next((name for name in columns or () if name not in there), None):
        raise ValueError(
            f"{path}: no column {missing!r}{nearest(missing, there)}; "
            f"there are {', '.join(there[:LISTED])}"
        )
    return [list(there).index(name) for name in columns or there]


def _numbered(count: int) -> list[str]:
    """Names for columns that have none."""
    return [f"x{i + 1}" for i in range(count)]


def _read_npy(path: Path, columns: Columns | None) -> tuple[Reals, Columns, dict[str, str]]:
    array = open_npy(path)
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise ValueError(
            f"{path}: {array.dtype} of shape {array.shape}; numbers of shape (rows, "
            "columns) are needed"
        )
    there = _numbered(array.shape[1])
    chosen = _chosen(path, there, columns)
    return np.array(array[:, chosen], np.float64), tuple(there[i] for i in chosen), {}


def _read_parquet(path: Path, columns: Columns | None) -> tuple[Reals, Columns, dict[str, str]]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        there = parquet.read_schema(path).names
        chosen = [there[i] for i in _chosen(path, there, columns)]
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


def _read_csv(path: Path, columns: Columns | None) -> tuple[Reals, Columns, dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = max(";\t,", key=lambda mark: len(_first_row(file, mark)[0]))
            there, reader = _first_row(file, delimiter)
            if not there:
                raise ValueError(f"{path}: has no rows")
            # Numbers and missing values alone are no header.
            if any(map(_is_number, there)) and all(
                _is_number(cell) or cell.lower() in MISSING for cell in there
            ):
                there = _numbered(len(there))
                file.seek(0)
                reader = csv.reader(file, delimiter=delimiter)
            chosen = _chosen(path, there, columns)
            rows = _all_numbers(path, len(there), delimiter=delimiter, skiprows=reader.line_num)
            if rows is not None:
                return rows[:, chosen], tuple(there[i] for i in chosen), {}
            return _cell_by_cell(path, reader, there, chosen)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: {reason(error)}") from None


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
    path: Path, reader: Any, there: Sequence[str], chosen: list[int]
) -> tuple[Reals, Columns, dict[str, str]]:
    """The rows, read cell by cell, NaN if missing; and the first text in each column with text."""
    rows: list[list[float]] = []
    bad: dict[str, str] = {}
    for cells in filter(_is_row, reader):
        if len(cells) != len(there):
            raise ValueError(
                f"{path}: line {reader.line_num} has {len(cells)} cells, the first {len(there)}"
            )
        rows.append([])
        for i in chosen:
            cell = cells[i].strip()
            number = _is_number(cell)
            if not number and cell.lower() not in MISSING:
                bad.setdefault(there[i], f"holds text, {cell[:40]!r} in row {len(rows):,} first")
            rows[-1].append(float(cell) if number else np.nan)
    return np.array(rows, np.float64).reshape(-1, len(chosen)), tuple(there[i] for i in chosen), bad


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 12_34 as a number; here it is a name


def _warn_of_unbounded(source: Path, train: Reals, columns: Columns) -> None:
    """Warn of columns on which a density can grow without bound.

    They have few different values, or follow from others.
    """
    some = train[:: -(-len(train) // 10_000)]
    if few := [
        name
        for name, values in zip(columns, some.T, strict=True)
        if len(np.unique(values)) <= len(some) // 20
    ]:
        warnings.warn(
            f"{source}: {', '.join(few[:LISTED])}: few different values, "
            "on which a density can grow without bound; noise helps",
            stacklevel=2,
        )
    # A column that seldom differs may be constant in these rows.
    varying = np.flatnonzero(np.ptp(some, axis=0))
    if len(some) > len(columns) and len(varying) > 1:
        sizes, axes = np.linalg.eigh(np.corrcoef(some[:, varying].T))
        if sizes[0] < 1e-9:
            tied = [
                columns[i]
                for i, weight in zip(varying, axes[:, 0], strict=True)
                if abs(weight) > 1e-3
            ]
            warnings.warn(
                f"{source}: {', '.join(tied[:LISTED])}: each follows from the others, "
                "so that a density can grow without bound",
                stacklevel=2,
            )
