"""The user's own table, or a folder of them: its splits, and what to know before a training."""

import csv
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from realnvp.config import ContextColumn, TableData, nearest
from realnvp.config.errors import count_of, enumerated, listed, quoted, reason
from realnvp.data.dataset import Dataset, split_off
from realnvp.data.folder import is_image, split_entries, wanted
from realnvp.data.images import why_no_file
from realnvp.data.prepared import open_npy
from realnvp.progress import progress

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


def names_in(context: Sequence[str], there: Sequence[str]) -> Columns:
    """The names of columns in a command's words, where "a,b" may be two."""
    return tuple(name for word in context for name in _names(word, there))


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


Cells = Mapping[str, Sequence[str]]
"""By column: the text of each row; '' where it is missing."""


def given_names(config: TableData, there: Columns) -> Columns:
    """The columns of a table that are given. ValueError: it has no such columns."""
    names = names_in(config.context_columns or (), there)
    for name in names:
        if name not in there:
            raise ValueError(
                f"data.context_columns: no column {name!r}{nearest(name, there)}; there are {quoted(there)}"
            )
    return names


def learned(config: TableData, cells: Cells, path: Path) -> tuple[ContextColumn, ...]:
    """The given columns as the rows of a training have them. ValueError names what is wrong."""
    return tuple(_column(name, [*texts], path) for name, texts in cells.items())


def _column(name: str, texts: list[str], path: Path) -> ContextColumn:
    there = [text for text in texts if not _missing(text)]
    lacking = len(there) < len(texts)
    if lacking:
        row = next(i for i, text in enumerate(texts) if _missing(text))
        raise ValueError(
            f"{path}: given column {name!r} has {len(texts) - len(there):,} missing values, first "
            f"in row {row + 1:,}"
        )
    if not there:
        raise ValueError(f"{path}: given column {name!r} has no values")
    if all(_is_finite(text) for text in there):
        return ContextColumn(name)
    found = {*there}
    if len(found) > max(10, len(texts) // 5):
        raise ValueError(
            f"{path}: given column {name!r} has {len(found):,} texts, {there[0][:40]!r} first: "
            "too many to learn from"
        )
    return ContextColumn(name, tuple(sorted(found)))


def encoded(columns: Sequence[ContextColumn], cells: Cells, path: Path) -> Reals:
    """(N, k): the numbers of rows. ValueError names the column, the row and the value."""
    if not all(cells.values()):
        raise ValueError(f"{path}: has no rows")
    parts = [_encoded(column, cells[column.name], path) for column in columns]
    return np.concatenate(parts, axis=1)


def _encoded(column: ContextColumn, texts: Sequence[str], path: Path) -> Reals:
    where = f"{path}: given column {column.name!r}, row "
    if column.categories:
        index = {text: float(i) for i, text in enumerate(column.categories)}
        for i, text in enumerate(texts):
            if text not in index:
                raise ValueError(
                    f"{where}{i + 1:,}: {'is missing' if _missing(text) else repr(text[:40])}; "
                    f"training had {quoted(column.categories)}"
                )
        places = np.array([[index[text]] for text in texts])
        return (places == np.arange(len(index))).astype(np.float64)
    values = np.zeros((len(texts), 1))
    for i, text in enumerate(texts):
        if _missing(text):
            raise ValueError(f"{where}{i + 1:,}: is missing")
        elif not _is_finite(text):
            raise ValueError(f"{where}{i + 1:,}: {text[:40]!r} is no number")
        else:
            values[i] = float(text)
    return values


def read_context(path: Path, config: TableData) -> Reals:
    """(N, k): the condition of each row of a table, for a flow of this configuration."""
    columns = config.context_values
    return encoded(columns, read_cells(path, tuple(column.name for column in columns)), path)


def _missing(text: str) -> bool:
    return text.lower() in MISSING


def _is_finite(text: str) -> bool:
    try:
        return abs(float(text)) < LARGEST
    except ValueError:
        return False


FEW_ROWS = 10


class Remedies(NamedTuple):
    """What helps against doubtful columns."""

    drop: str
    """Leaves the column {!r} out."""
    noise: str


COMMAND = Remedies("--data.drop {!r}", "--data.noise 0.05")


def table(config: TableData, *, seed: int) -> Dataset:
    """The table of data.source; without splits, its rows are split by the seed's permutation.

    ValueError names all bad columns: missing, text, not finite, or constant in training.
    """
    if not config.source:
        raise ValueError(
            "data.source: table needs a .csv, .npy or .parquet file of numbers, "
            "or a folder of train, test ..."
        )
    source = Path(config.source).expanduser()
    files = _files(source)
    context = given_names(config, columns_of(files["train"]) if config.context_columns else ())
    read, columns = _read(files, config.columns, (*(config.drop or ()), *context))
    splits = split_off(read, config.val_fraction, seed=seed)
    train = splits["train"][:]
    if len(columns) < 2 and not context:
        raise ValueError(
            f"{source}: has one column; a coupling changes some columns by the others, "
            "so two are needed"
        )
    refuse_columns(source, constant(train, columns))
    if config.columns is None and not context:
        warn_of_index(source, read["train"], columns)
    warn_of_few(source, train)
    if not config.noise:
        warn_of_unbounded(source, train, columns)
    found = Dataset(config.set, source.name, None, (len(columns),), splits, columns=columns)
    return _with_given(found, files, context, config, seed=seed) if context else found


def _with_given(
    found: Dataset, files: dict[str, Path], context: Columns, config: TableData, *, seed: int
) -> Dataset:
    """The data set with the numbers of its given columns."""
    cells = {split: read_cells(path, context) for split, path in files.items()}
    as_trained = learned(config, cells["train"], files["train"])
    if config.context_values not in ((), as_trained):
        raise ValueError("data.context_values: the training rows hold other values")
    numbers = {split: encoded(as_trained, each, files[split]) for split, each in cells.items()}
    labels = {
        split: each[:] for split, each in split_off(numbers, config.val_fraction, seed=seed).items()
    }
    return replace(found, labels=labels, context=context, context_values=as_trained)


def find_rows(source: Path, split: str, config: TableData) -> tuple[Dataset, str]:
    """A table outside any run, and the split to take: "all" where the source has no splits.

    config: a flow's, which names the columns to take, and the given ones.
    ValueError names what is wrong with the columns, or says which splits there are.
    """
    files = _files(source)
    read, columns = _read(files, config.columns)
    splits, split = wanted({**read}, split, source)
    labels = None
    if config.context_columns:
        labels = {split: read_context(files["train" if split == "all" else split], config)}
    return Dataset(
        str(source),
        None,
        None,
        (len(columns),),
        splits,
        comparable=False,
        columns=columns,
        labels=labels,
        context=config.context_columns,
        context_values=config.context_values,
    ), split


def _files(source: Path) -> dict[str, Path]:
    """The table of each split in the source, train at least."""
    files = {"train": source}
    if source.is_dir() and not (
        files := split_entries(
            {path.stem: path for path in source.iterdir() if path.suffix.lower() in SUFFIXES},
            source,
        )
    ):
        pictures = any(is_image(path.name) for path in source.iterdir())
        raise ValueError(
            f"{source}: holds no train{', train'.join(SUFFIXES)}"
            + "; images: realnvp train images-modern" * pictures
        )
    return files


def _read(
    files: dict[str, Path], columns: Columns | None, drop: Columns | None = None
) -> tuple[dict[str, Reals], Columns]:
    """The rows of each split, and the names of train's columns."""
    train, columns = read_table(files["train"], columns, drop)
    return {"train": train} | {
        split: read_table(files[split], columns)[0] for split in files if split != "train"
    }, columns


def constant(rows: Reals, columns: Columns) -> dict[str, str]:
    """The columns that have no density since all rows have one value, and which."""
    return {
        columns[i]: f"is {rows[0, i]:g} in all training rows"
        for i in np.flatnonzero((rows == rows[0]).all(0))
    }


def warn_of_few(source: Path | str, rows: Reals) -> None:
    """Warn of so few rows that a flow learns them by heart."""
    if len(rows) <= max(FEW_ROWS, rows.shape[1]):
        warnings.warn(
            f"{source}: {count_of(len(rows), 'row')} to train on, of "
            f"{count_of(rows.shape[1], 'column')}, are too few to learn more than a Gaussian",
            stacklevel=2,
        )


def warn_of_index(
    source: Path | str, rows: Reals, columns: Columns, remedies: Remedies = COMMAND
) -> None:
    """Warn of a column that numbers the rows: pandas' to_csv writes one, without a name."""
    first = rows[0, 0]
    numbers = first in (0, 1) and np.array_equal(rows[:, 0], first + np.arange(len(rows)))
    unnamed = columns[0] == "" or columns[0].startswith(("Unnamed: ", "__index_level_"))
    if unnamed or (numbers and len(rows) > FEW_ROWS):
        warnings.warn(
            f"{source}: column {columns[0]!r} looks like row numbers, as pandas' to_csv writes "
            f"them: {remedies.drop.format(columns[0])} leaves it out",
            stacklevel=2,
        )


def warn_of_unbounded(
    source: Path | str, train: Reals, columns: Columns, remedies: Remedies = COMMAND
) -> None:
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
            f"{source}: {enumerated(few)}: few different values, "
            f"on which a density can grow without bound; noise helps: {remedies.noise}",
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
            apart = remedies.drop.format(tied[-1])
            warnings.warn(
                f"{source}: {enumerated(tied)}: each follows from the others, so that a density "
                f"can grow without bound; leave one out, {apart}, or {remedies.noise}",
                stacklevel=2,
            )
