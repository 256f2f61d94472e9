"""The user's own table, or a folder of them: rows, context columns, and splits."""

import warnings
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realnvp.config.fields import ContextColumn, TableData
from realnvp.data.dataset import Dataset, cut_rows, digest, open_npy, take
from realnvp.data.folder import split_entries

if TYPE_CHECKING:
    import pandas as pd

Reals = npt.NDArray[np.float64]
Columns = tuple[str, ...]
SUFFIXES = (".csv", ".tsv", ".npy", ".parquet")
MISSING = ("", "na", "n/a", "nan", "null", "none", "<na>", "?")
LARGEST = float(np.finfo(np.float32).max)  # the flow's weights, float32, hold a column's mean
EXACT = 2**53  # float64 holds all integers up to here


def read_frame(path: Path) -> "pd.DataFrame":
    """All columns of a table: texts of a .csv or .tsv, with decimal points; else as stored.

    A .csv or .tsv has a header unless its first line is numbers; then, and in an .npy, the columns
    are x1, x2, ...
    """
    import pandas as pd

    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: not a table ({' '.join(SUFFIXES)})")
    try:
        if suffix == ".npy":
            frame = _numbered(pd.DataFrame(open_npy(path)))
        elif suffix == ".parquet":
            import pyarrow  # noqa: F401  # pandas would name two packages where it is missing

            frame = pd.read_parquet(path).reset_index(drop=True)
        else:
            frame = _csv_frame(path)
    except (ValueError, OSError) as error:  # also pandas', pyarrow's and Unicode's
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ').strip()}") from None
    frame.columns = frame.columns.map(str)
    if twice := frame.columns[frame.columns.duplicated()].tolist():
        raise ValueError(f"{path}: two columns are called {twice[0]!r}")
    if not len(frame):
        raise ValueError(f"{path}: has no rows")
    return frame


def _csv_frame(path: Path) -> "pd.DataFrame":
    """The cells of a .csv or .tsv as texts."""
    import pandas as pd

    with path.open(encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
    separator = next((mark for mark in ";\t" if mark in first), ",")
    how: Any = {"dtype": str, "na_filter": False, "skipinitialspace": True}
    cells = pd.read_csv(path, sep=separator, header=None, encoding="utf-8-sig", **how).fillna("")
    cells = cells.apply(lambda column: column.str.strip())
    if separator != ",":  # decimal commas
        cells = cells.replace(r"^([-+]?\d*),(\d+([eE][-+]?\d+)?)$", r"\1.\2", regex=True)
    head = cells.iloc[0]
    values, text = _parsed(head)
    if text.any() or np.isnan(values).all():
        cells.columns = pd.Index(head)
        return cells.iloc[1:].reset_index(drop=True)
    return _numbered(cells)


def _numbered(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame with columns x1, x2, ..."""
    return frame.set_axis([f"x{i + 1}" for i in range(frame.shape[1])], axis=1)


def choose_columns(
    path: Path, frame: "pd.DataFrame", columns: Columns | None = None, drop: Columns | None = None
) -> Columns:
    """The columns to take. ValueError: the table lacks one that is named."""
    for name in (*(columns or ()), *(drop or ())):
        if name not in frame:
            raise ValueError(f"{path}: no column {name!r}; there are {', '.join(frame)}")
    return tuple(name for name in columns or frame if name not in (drop or ()))


def _parsed(column: "pd.Series[Any]") -> tuple[Reals, npt.NDArray[np.bool_]]:
    """The numbers of a column, NaN where there is none, and where it has texts."""
    import pandas as pd

    if column.dtype.kind in "iuf":
        return column.to_numpy(np.float64, na_value=np.nan), np.zeros(len(column), bool)
    texts = column.astype(str).fillna("")
    values = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    return values, np.isnan(values) & ~texts.str.lower().isin(MISSING).to_numpy()


def numbers(path: Path, frame: "pd.DataFrame", names: Columns) -> Reals:
    """(N, D): these columns as float64. ValueError: a value is no finite number, or too large."""
    choose_columns(path, frame, names)
    rows = np.empty((len(frame), len(names)))
    for values, name in zip(rows.T, names, strict=True):
        column = frame[name]
        values[:], _ = _parsed(column)
        wrong = ~(np.abs(values) <= LARGEST)
        if column.dtype.kind != "f":  # an integer that float64 rounds
            whole = column.astype(str).str.fullmatch(r"[-+]?\d+").to_numpy(bool)
            wrong |= whole & (np.abs(values) >= EXACT)
        if wrong.any():
            row = int(np.argmax(wrong))
            cell = f"column {name!r}, row {row + 1}: {str(column[row])!r}"
            raise ValueError(f"{path}: {cell} is no number, or too large")
    return rows


def learn_context(path: Path, frame: "pd.DataFrame", names: Columns) -> tuple[ContextColumn, ...]:
    """The context columns with the categories of the training rows; no categories: numbers."""
    choose_columns(path, frame, names)
    columns = []
    for name in names:
        values, text = _parsed(frame[name])
        if not text.any():
            columns.append(ContextColumn(name))
            continue
        if (missing := np.isnan(values) & ~text).any():
            row = int(np.argmax(missing)) + 1
            raise ValueError(f"{path}: column {name!r}, row {row}: missing value")
        columns.append(ContextColumn(name, tuple(sorted({*map(str, frame[name])}))))
    return tuple(columns)


def embed(path: Path, frame: "pd.DataFrame", columns: Sequence[ContextColumn]) -> Reals:
    """(N, k): numbers, and one-hot categories, of context columns.

    ValueError: a missing value, or a category that training did not have.
    """
    choose_columns(path, frame, tuple(column.name for column in columns))
    parts = [np.empty((len(frame), 0))]
    for column in columns:
        if not column.categories:
            parts.append(numbers(path, frame, (column.name,)))
            continue
        texts = np.array([*map(str, frame[column.name])])
        parts.append((texts[:, None] == np.array(column.categories)).astype(np.float64))
        if (unknown := ~parts[-1].any(1)).any():
            row = int(np.argmax(unknown))
            cell = f"column {column.name!r}, row {row + 1}: {texts[row]!r}"
            raise ValueError(f"{path}: {cell} is no category of the training rows")
    return np.concatenate(parts, axis=1)


def table(config: TableData, source: Path, *, seed: int | None = None) -> Dataset:
    """The rows of a table, or of a folder of train, test, ...

    seed: for the splits that the source lacks. None: the rows are other data than a flow's.
    """
    files = _files(source)
    frames = {split: read_frame(path) for split, path in files.items()}
    context = config.context_columns or ()
    drop = (*(config.drop or ()), *context)
    names = choose_columns(files["train"], frames["train"], config.columns, drop)
    columns = config.context_values or learn_context(files["train"], frames["train"], context)
    rows = {split: numbers(files[split], frame, names) for split, frame in frames.items()}
    labels = {split: embed(files[split], frame, columns) for split, frame in frames.items()}
    if seed is not None:
        # -0 becomes the 0 that it equals.
        equal = [*map(digest, np.hstack([rows["train"], labels["train"]]) + 0.0)]
        cut = cut_rows(rows, config.val_fraction, seed=seed, equal=equal, source=source)
        rows, labels = take(rows, cut), take(labels, cut)
        if len(names) < (1 if context else 2):
            raise ValueError(f"{source}: too few columns to learn, {len(names)}")
        if constant := constant_columns(rows["train"], names):
            raise ValueError(f"{source}: column {constant[0]!r} is constant in the training rows")
        if not config.noise:
            warn_of_few_values(source, rows["train"], names)
    return Dataset(
        name=str(source) if seed is None else config.set,
        version=source.name,
        shape=(len(names),),
        splits=rows,
        columns=names,
        labels=labels if columns else None,
        context_values=columns,
    )


def _files(source: Path) -> dict[str, Path]:
    """The table of each split in the source, train at least."""
    if not source.is_dir():
        return {"train": source}
    tables = {path.stem: path for path in source.iterdir() if path.suffix.lower() in SUFFIXES}
    files = split_entries(tables, source)
    if not files:
        raise ValueError(f"{source}: holds no train{', train'.join(SUFFIXES)}")
    return files


def constant_columns(rows: Reals, names: Sequence[str]) -> list[str]:
    """The columns that have one value in all rows, and so no density."""
    return [names[i] for i in np.flatnonzero((rows == rows[0]).all(0)).tolist()]


def warn_of_few_values(source: object, rows: Reals, names: Sequence[str]) -> None:
    """Warn of columns with few different values, on which a density can grow without bound."""
    some = rows[:: -(-len(rows) // 10_000)]
    few = [len(np.unique(values)) <= len(some) // 20 for values in some.T]
    if any(few):
        warnings.warn(
            f"{source}: {', '.join(map(repr, compress(names, few)))}: few different values, on "
            "which a density can grow without bound (data.noise)",
            stacklevel=2,
        )
