"""The condition of a table's rows: columns of numbers or texts as numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from realnvp.config import DataConfig, nearest
from realnvp.config.given import (
    MISSING,
    GivenColumn,
    given_columns,
    order_of,
)
from realnvp.config.words import quoted
from realnvp.data.table_files import LARGEST, Columns, Reals, names_in, read_cells
from realnvp.data.table_files import MISSING as MISSING_CELLS

Cells = Mapping[str, Sequence[str]]
"""By column: the text of each row; '' where it is missing."""


def given_names(config: DataConfig, there: Columns) -> Columns:
    """The columns of a table that are given. ValueError: it has no such columns."""
    names = names_in(config.given or (), there)
    for name in names:
        if name not in there:
            raise ValueError(
                f"data.given: no column {name!r}{nearest(name, there)}; there are {quoted(there)}"
            )
    return names


def learned(config: DataConfig, cells: Cells, path: Path) -> tuple[GivenColumn, ...]:
    """The given columns as the rows of a training have them. ValueError names what is wrong."""
    mark = config.missing == "mark"
    orders = dict(map(order_of, config.ordered or ()))
    if wrong := next((name for name in orders if name not in cells), None):
        raise ValueError(f"data.ordered: {wrong!r} is no given column{nearest(wrong, cells)}")
    return tuple(
        _column(name, [*texts], orders.get(name), path, mark=mark) for name, texts in cells.items()
    )


def _column(
    name: str, texts: list[str], order: tuple[str, ...] | None, path: Path, *, mark: bool
) -> GivenColumn:
    there = [text for text in texts if not _missing(text)]
    lacking = len(there) < len(texts)
    if lacking and not mark:
        row = next(i for i, text in enumerate(texts) if _missing(text))
        raise ValueError(
            f"{path}: given column {name!r} has {len(texts) - len(there):,} missing values, first "
            f"in row {row + 1:,} (--data.missing mark takes them)"
        )
    if not there:
        raise ValueError(f"{path}: given column {name!r} has no values")
    if order is None and all(_is_finite(text) for text in there):
        mean = float(np.mean([float(text) for text in there]))
        return GivenColumn(name, mean=mean if lacking else None)
    found = {*there} | ({MISSING} if lacking else set())
    if order is not None and (unknown := sorted(found - {*order})):
        raise ValueError(f"data.ordered: {name!r} also holds {quoted(unknown)}")
    if order is None and len(found) > max(10, len(texts) // 5):
        raise ValueError(
            f"{path}: given column {name!r} has {len(found):,} texts, {there[0][:40]!r} first: "
            "too many to learn from"
        )
    return GivenColumn(name, order or tuple(sorted(found)), ordered=order is not None)


def encoded(columns: Sequence[GivenColumn], cells: Cells, path: Path) -> Reals:
    """(N, k): the numbers of rows. ValueError names the column, the row and the value."""
    if not all(cells.values()):
        raise ValueError(f"{path}: has no rows")
    parts = [_encoded(column, cells[column.name], path) for column in columns]
    return np.concatenate(parts, axis=1)


def _encoded(column: GivenColumn, texts: Sequence[str], path: Path) -> Reals:
    where = f"{path}: given column {column.name!r}, row "
    if column.texts:
        index = {text: float(i) for i, text in enumerate(column.texts)}
        known = [MISSING if _missing(text) and MISSING in index else text for text in texts]
        for i, text in enumerate(known):
            if text not in index:
                raise ValueError(
                    f"{where}{i + 1:,}: {'is missing' if _missing(text) else repr(text[:40])}; "
                    f"training had {quoted(column.texts)}"
                )
        places = np.array([[index[text]] for text in known])
        return places if column.ordered else (places == np.arange(len(index))).astype(np.float64)
    values = np.full((len(texts), 1), column.mean or 0.0)
    missing = np.array([[_missing(text)] for text in texts])
    for i, text in enumerate(texts):
        if missing[i]:
            if column.mean is None:
                raise ValueError(f"{where}{i + 1:,}: is missing; training had no missing values")
        elif not _is_finite(text):
            raise ValueError(f"{where}{i + 1:,}: {text[:40]!r} is no number")
        else:
            values[i] = float(text)
    return values if column.mean is None else np.c_[values, missing]


def read_given(path: Path, config: DataConfig) -> Reals:
    """(N, k): the condition of each row of a table, for a flow of this configuration."""
    columns = given_columns(config.given, config.given_values)
    return encoded(columns, read_cells(path, tuple(column.name for column in columns)), path)


def _missing(text: str) -> bool:
    return text.lower() in MISSING_CELLS


def _is_finite(text: str) -> bool:
    try:
        return abs(float(text)) < LARGEST
    except ValueError:
        return False
