"""The user's own table, or a folder of them: rows, context columns, and splits."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realnvp.config import ContextColumn, TableData
from realnvp.data.dataset import Dataset, digest, open_npy, split_off, warn_of_equal
from realnvp.data.folder import choose_split, split_entries

if TYPE_CHECKING:
    import pandas as pd

Reals = npt.NDArray[np.float64]
Columns = tuple[str, ...]
SUFFIXES = (".csv", ".tsv", ".npy", ".parquet")
MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
LARGEST = float(np.finfo(np.float32).max)  # the flow's weights, float32, hold a column's mean
EXACT = 2**53  # float64 holds all integers up to here
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)


def read_table(
    path: Path, columns: Columns | None = None, drop: Columns | None = None
) -> tuple[Reals, Columns]:
    """The rows of a table, (N, D), and the names of its columns.

    columns: the columns to take, in this order; None: all. drop: the columns to leave out.

    A .csv or .tsv has a header unless its first line is numbers; then, and in an .npy, the columns
    are x1, x2, ...
    ValueError: a column is missing or holds text, or a value is missing, infinite or too large.
    """
    frame = read_frame(path)
    names = choose_columns(path, frame, columns, drop)
    return numbers(path, frame, names), names


def read_cells(path: Path, names: Columns) -> dict[str, list[str]]:
    """The text of each row in each of these columns."""
    frame = read_frame(path)
    choose_columns(path, frame, names, None)
    return {name: [*map(str, frame[name])] for name in names}


def read_frame(path: Path) -> "pd.DataFrame":
    """All columns of a table: texts of a .csv or .tsv, with decimal points; else as stored."""
    import pandas as pd

    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: not a table ({' '.join(SUFFIXES)})")
    try:
        if suffix == ".npy":
            frame = _npy_frame(path)
        elif suffix == ".parquet":
            import pyarrow  # noqa: F401  # pandas would name two packages where it is missing

            frame = pd.read_parquet(path)
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


def _npy_frame(path: Path) -> "pd.DataFrame":
    import pandas as pd

    array = open_npy(path)
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise ValueError(f"{array.dtype} of shape {array.shape}; expected numbers (rows, columns)")
    return pd.DataFrame(array, columns=_numbered(array.shape[1]))


def _csv_frame(path: Path) -> "pd.DataFrame":
    """The cells of a .csv or .tsv as texts."""
    import pandas as pd

    with path.open(encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
    separator = next((mark for mark in ";\t" if mark in first), ",")
    cells = pd.read_csv(
        path,
        sep=separator,
        header=None,
        dtype=str,
        na_filter=False,
        skipinitialspace=True,
        encoding="utf-8-sig",
    ).fillna("")
    cells = cells.apply(lambda column: column.str.strip())
    if separator != ",":  # decimal commas
        cells = cells.replace(r"^([-+]?\d*),(\d+([eE][-+]?\d+)?)$", r"\1.\2", regex=True)
    head = cells.iloc[0].tolist()
    # A first line of numbers and missing values is no header.
    if any(map(NUMBER.fullmatch, head)) and all(
        NUMBER.fullmatch(cell) or cell.lower() in MISSING for cell in head
    ):
        cells.columns = pd.Index(_numbered(len(head)))
        return cells
    cells.columns = pd.Index(head)
    return cells.iloc[1:].reset_index(drop=True)


def _numbered(count: int) -> list[str]:
    return [f"x{i + 1}" for i in range(count)]


def choose_columns(
    path: Path, frame: "pd.DataFrame", columns: Columns | None, drop: Columns | None
) -> Columns:
    """The columns to take. ValueError: the table lacks one that is named."""
    there = [*frame.columns]
    taken, dropped = columns or there, drop or ()
    for name in (*taken, *dropped):
        if name not in there:
            raise ValueError(f"{path}: no column {name!r}; there are {', '.join(there)}")
    if len({*taken}) < len(taken):
        raise ValueError(f"data.columns: {', '.join(taken)}: one of them twice")
    return tuple(name for name in taken if name not in dropped)


def numbers(path: Path, frame: "pd.DataFrame", names: Columns) -> Reals:
    """(N, D): these columns as float64. ValueError: text, or a value that is no finite number."""
    choose_columns(path, frame, names, None)
    if text := [name for name in names if _is_text(frame[name])]:
        raise ValueError(
            f"{path}: text in {', '.join(map(repr, text))} (data.context_columns, data.drop)"
        )
    columns = [_to_float(path, name, frame[name]) for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((len(frame), 0))


def _is_text(column: "pd.Series[Any]") -> bool:
    if column.dtype.kind in "iuf":
        return False
    texts = column.astype(str)
    return not (texts.str.fullmatch(NUMBER) | texts.str.lower().isin(MISSING)).all()


def _to_float(path: Path, name: str, column: "pd.Series[Any]") -> Reals:
    """A column of numbers, or of texts that are numbers, as float64."""
    if column.dtype.kind in "iuf":
        values = column.to_numpy(np.float64, na_value=np.nan)
        rounded = column.dtype.kind in "iu" and np.abs(values) >= EXACT
    else:
        texts = column.astype(str)
        texts = texts.where(~texts.str.lower().isin(MISSING), "nan")
        values = texts.to_numpy(object).astype(np.float64)
        rounded = (np.abs(values) >= EXACT) & texts.str.fullmatch(r"[-+]?\d+").to_numpy(bool)
    for wrong, words in [
        (np.isnan(values), "missing value"),
        (np.isinf(values), "infinite value"),
        (rounded, "integer beyond 2^53, which float64 rounds"),
        (np.abs(values) > LARGEST, f"value beyond {LARGEST:.1g}"),
    ]:
        if np.any(wrong):
            raise ValueError(f"{path}: column {name!r}, row {np.argmax(wrong) + 1}: {words}")
    return values


def learn_context(path: Path, frame: "pd.DataFrame", names: Columns) -> tuple[ContextColumn, ...]:
    """The context columns with the categories of the training rows; no categories: numbers."""
    columns = []
    for name in names:
        if not _is_text(frame[name]):
            columns.append(ContextColumn(name))
            continue
        texts = frame[name].astype(str)
        if (missing := texts.str.lower().isin(MISSING)).any():
            row = int(np.argmax(missing)) + 1
            raise ValueError(f"{path}: column {name!r}, row {row}: missing value")
        categories = texts.astype("category").cat.categories
        if len(categories) > max(10, len(frame) // 5):
            raise ValueError(f"{path}: column {name!r} has {len(categories)} categories, too many")
        columns.append(ContextColumn(name, tuple(map(str, categories))))
    return tuple(columns)


def embed(path: Path, frame: "pd.DataFrame", columns: Sequence[ContextColumn]) -> Reals:
    """(N, k): numbers, and one-hot categories, of context columns.

    ValueError: a missing value, or a category that training did not have.
    """
    import pandas as pd

    choose_columns(path, frame, tuple(column.name for column in columns), None)
    parts = [np.empty((len(frame), 0))]
    for column in columns:
        if not column.categories:
            parts.append(numbers(path, frame, (column.name,)))
            continue
        texts = frame[column.name].astype(str)
        codes = pd.Index(column.categories).get_indexer(texts)
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise ValueError(
                f"{path}: column {column.name!r}, row {row + 1}: {texts[row]!r} is no category "
                "of the training rows"
            )
        parts.append(np.eye(len(column.categories))[codes])
    return np.concatenate(parts, axis=1)


def read_context(path: Path, config: TableData) -> Reals:
    """(N, k): the context of each row of a table, for a flow of this configuration."""
    return embed(path, read_frame(path), config.context_values)


def table(config: TableData, *, seed: int) -> Dataset:
    """The table of data.source; the seed splits its rows if the source has no splits."""
    if not config.source:
        raise ValueError("data.source: a table needs a file, or a folder of train, test, ...")
    source = Path(config.source).expanduser()
    files = _files(source)
    frames = {split: read_frame(path) for split, path in files.items()}
    context = config.context_columns or ()
    drop = (*(config.drop or ()), *context)
    names = choose_columns(files["train"], frames["train"], config.columns, drop)
    if len(names) < (1 if context else 2):
        raise ValueError(f"{source}: too few columns to learn, {len(names)}")
    columns = learn_context(files["train"], frames["train"], context)
    rows = {split: numbers(files[split], frame, names) for split, frame in frames.items()}
    embedded = {split: embed(files[split], frame, columns) for split, frame in frames.items()}
    equal = [*map(digest, np.hstack([rows["train"], embedded["train"]]))]
    warn_of_equal(source, equal, "rows")
    splits = split_off(rows, config.val_fraction, seed=seed, equal=equal)
    if constant := constant_columns(splits["train"][:], names):
        raise ValueError(f"{source}: column {constant[0]!r} is constant in the training rows")
    if not config.noise:
        warn_of_few_values(source, splits["train"][:], names)
    found = Dataset(config.set, source.name, None, (len(names),), splits, columns=names)
    if not columns:
        return found
    if config.context_values not in ((), columns):
        raise ValueError("data.context_values: the training rows hold other values")
    embedded = split_off(embedded, config.val_fraction, seed=seed, equal=equal)
    labels = {split: each[:] for split, each in embedded.items()}
    return replace(found, labels=labels, context=context, context_values=columns)


def find_rows(source: Path, split: str, config: TableData) -> tuple[Dataset, str]:
    """A table outside any run, and the split to take: "all" if the source has no splits.

    config: of a flow, with the columns to take and the context columns.
    """
    files, split = choose_split(_files(source), split, source)
    tables = {name: read_table(path, config.columns) for name, path in files.items()}
    rows, names = {name: each[0] for name, each in tables.items()}, tables[split][1]
    labels = {split: read_context(files[split], config)} if config.context_columns else None
    return Dataset(
        str(source),
        None,
        None,
        (len(names),),
        rows,
        columns=names,
        labels=labels,
        context=config.context_columns,
        context_values=config.context_values,
    ), split


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
    if few := [
        name
        for name, values in zip(names, some.T, strict=True)
        if len(np.unique(values)) <= len(some) // 20
    ]:
        warnings.warn(
            f"{source}: {', '.join(map(repr, few))}: few different values, on which a density can "
            "grow without bound (data.noise)",
            stacklevel=2,
        )
