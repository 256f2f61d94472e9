"""The user's own table, or a folder of them: its splits, and what to know before a training."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from realnvp.config import DataConfig
from realnvp.config.words import count_of, enumerated
from realnvp.data.dataset import Dataset, cut_off
from realnvp.data.folder import is_image, split_entries, wanted
from realnvp.data.given import encoded, given_names, learned, read_given
from realnvp.data.table_files import (
    SUFFIXES,
    Columns,
    Reals,
    columns_of,
    read_cells,
    read_table,
    refuse_columns,
)

FEW_ROWS = 10


class Remedies(NamedTuple):
    """What helps against doubtful columns."""

    drop: str
    """Leaves the column {!r} out."""
    noise: str


COMMAND = Remedies("--data.drop {!r}", "--data.noise 0.05")


def table(config: DataConfig, *, seed: int) -> Dataset:
    """The table of data.source; without splits, its rows are split by the seed's permutation.

    ValueError names all bad columns: missing, text, not finite, or constant in training.
    """
    if not config.source:
        raise ValueError(
            "data.source: table needs a .csv, .npy or .parquet file of numbers, "
            "or a folder of train, test ..."
        )
    if config.classes:
        raise ValueError("data.classes: is for images")
    source = Path(config.source).expanduser()
    files = _files(source)
    given = given_names(config, columns_of(files["train"]) if config.given else ())
    read, columns = _read(files, config.columns, (*(config.drop or ()), *given))
    splits = cut_off(read, config.held_out, seed=seed)
    train = splits["train"][:]
    if len(columns) < 2 and not given:
        raise ValueError(
            f"{source}: has one column; a coupling changes some columns by the others, "
            "so two are needed"
        )
    refuse_columns(source, constant(train, columns))
    if config.columns is None and not given:
        warn_of_index(source, read["train"], columns)
    warn_of_few(source, train)
    if not config.noise:
        warn_of_unbounded(source, train, columns)
    found = Dataset(config.set, source.name, None, (len(columns),), splits, columns=columns)
    return _with_given(found, files, given, config, seed=seed) if given else found


def _with_given(
    found: Dataset, files: dict[str, Path], given: Columns, config: DataConfig, *, seed: int
) -> Dataset:
    """The data set with the numbers of its given columns."""
    cells = {split: read_cells(path, given) for split, path in files.items()}
    as_trained = learned(config, cells["train"], files["train"])
    values = tuple(column.as_text() for column in as_trained)
    if config.given_values not in (None, values):
        raise ValueError("data.given_values: the training rows hold other values")
    numbers = {split: encoded(as_trained, each, files[split]) for split, each in cells.items()}
    labels = {
        split: each[:] for split, each in cut_off(numbers, config.held_out, seed=seed).items()
    }
    return replace(found, labels=labels, given=given, given_values=values)


def find_rows(source: Path, split: str, config: DataConfig) -> tuple[Dataset, str]:
    """A table outside any run, and the split to take: "all" where the source has no splits.

    config: a flow's, which names the columns to take, and the given ones.
    ValueError names what is wrong with the columns, or says which splits there are.
    """
    files = _files(source)
    read, columns = _read(files, config.columns)
    splits, split = wanted({**read}, split, source)
    labels = None
    if config.given:
        labels = {split: read_given(files["train" if split == "all" else split], config)}
    return Dataset(
        str(source),
        None,
        None,
        (len(columns),),
        splits,
        comparable=False,
        columns=columns,
        labels=labels,
        given=config.given,
        given_values=config.given_values,
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
