"""Tables: what is read, what is refused, context columns, splits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from realnvp.config.fields import ContextColumn, TableData
from realnvp.data.prepared import find_data, find_split, open_splits, prepare
from realnvp.data.tables import choose_columns, embed, numbers, read_frame
from realnvp.io.files import DamagedError

pd = pytest.importorskip("pandas")
ROWS = np.random.default_rng(0).normal(size=(60, 3))


def read_table(
    path: Path, columns: tuple[str, ...] | None = None, drop: tuple[str, ...] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The rows of a table, and the names of their columns."""
    frame = read_frame(path)
    names = choose_columns(path, frame, columns, drop)
    return numbers(path, frame, names), names


def read_context(path: Path, config: TableData) -> np.ndarray:
    """The context of each row of a table."""
    return embed(path, read_frame(path), config.context_values)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def csv(path: Path, rows: np.ndarray = ROWS, header: str = "x,y,z") -> Path:
    lines = [",".join(map(repr, row)) for row in rows.tolist()]
    return written(path, "\n".join([header, *lines]))


def config(source: Path, **fields: object) -> TableData:
    return TableData(source=str(source), **fields)


def test_every_format_holds_the_same_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=["x", "y", "z"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "c.csv", index=False, sep=";", decimal=",")
    frame.to_csv(tmp_path / "d.csv", index=False, quoting=1, encoding="utf-8-sig")
    frame.to_parquet(tmp_path / "e.parquet")
    np.save(tmp_path / "f.npy", ROWS)
    frame.to_csv(tmp_path / "g.csv", index=False, header=False)
    for path in sorted(tmp_path.iterdir()):
        rows, names = read_table(path)
        assert np.array_equal(rows, ROWS), path  # to the bit
        assert names == (("x1", "x2", "x3") if path.stem in "fg" else ("x", "y", "z"))


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv")
    assert np.array_equal(read_table(path, ("z", "x"))[0], ROWS[:, [2, 0]])
    assert read_table(path, drop=("y",))[1] == ("x", "z")
    for columns, drop in [(("x", "w"), None), (None, ("w",))]:
        with pytest.raises(ValueError, match="'w'"):
            read_table(path, columns, drop)


BAD = {
    "text": ("x,y\n1,a\n2,3", "column 'y', row 1"),
    "underscores": ("x,y\n1,1_000\n2,3", "'y'"),
    "missing": ("x,y\n1,2\n2,\n", "column 'y', row 2"),
    "missing by name": ("x,y\n1,2\n2,n/a\n", "column 'y', row 2"),
    "short row": ("x,y\n1,2\n2\n", "column 'y', row 2"),
    "long row": ("x,y\n1,2\n2,3,4\n", "line 3"),
    "infinite": ("x,y\n1,2\ninf,4\n", "column 'x', row 2"),
    "too large": ("x,y\n1,2\n1e300,4\n", "column 'x', row 2"),
    "rounded": ("x,y\n1,2\n9007199254740993,4\n", "column 'x', row 2"),
    "missing in the first line": ("1,NA\n2,3\n", "column 'x2', row 1"),
    "twice": ("x,x\n1,2\n2,3", "'x'"),
    "no rows": ("x,y\n", "x.csv"),
    "empty": ("", "x.csv"),
    "true": ("x,y\n1,true\n2,false", "'y'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_cell_is_named(tmp_path: Path, kind: str) -> None:
    text, word = BAD[kind]
    with pytest.raises(ValueError, match=word) as caught:
        read_table(written(tmp_path / "x.csv", text))
    assert str(caught.value).startswith(str(tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "x,y\n1,é".encode("latin-1")),
        ("x.parquet", b"PAR1 no"),
        ("x.npy", b"\x93NUMPY\x01\x00\xff\xff("),
        ("x.txt", b"1,2"),
        ("x.csv", b'x,y\n"1,2\n'),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_table(tmp_path / name)
    with pytest.raises(ValueError, match="none"):
        read_table(tmp_path / "none.csv")


def test_integers_of_every_file_are_exact(tmp_path: Path) -> None:
    large = np.array([[1, 2], [2**53 + 1, 3]])
    np.save(tmp_path / "x.npy", large)
    pd.DataFrame(large, columns=["a", "b"]).to_parquet(tmp_path / "x.parquet")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="row 2"):
            read_table(path)
    np.save(tmp_path / "x.npy", large % 2**53)
    assert read_table(tmp_path / "x.npy")[0].tolist() == (large % 2**53).tolist()


def test_a_parquet_file_with_an_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, np.nan], "b": [2.0, 3.0]}, index=[7, 7])
    frame.to_parquet(path := tmp_path / "x.parquet")
    assert [*read_frame(path).index] == [0, 1]
    with pytest.raises(ValueError, match="'a', row 2"):
        read_table(path)


def test_a_table_is_split_and_prepared(tmp_path: Path) -> None:
    settings = config(csv(tmp_path / "x.csv"))
    found = prepare(settings, seed=2, folder=tmp_path / "data")
    assert found.counts == {"train": 48, "validation": 6, "test": 6}
    assert (found.columns, found.shape, found.levels) == (("x", "y", "z"), (3,), None)
    stored = np.concatenate([found.splits[split][:] for split in found.splits])
    assert sorted(map(tuple, stored)) == sorted(map(tuple, ROWS))
    again = prepare(replace(settings, columns=("x", "y", "z")), seed=2, folder=tmp_path / "data")
    assert np.array_equal(again.test[:], found.test[:])
    source = config(tmp_path / "data")
    assert find_data(source, seed=0).columns == ("x", "y", "z")
    for change in ({"columns": ("x", "y")}, {"drop": ("x",)}, {"context_columns": ("x",)}):
        with pytest.raises(ValueError, match=next(iter(change)).replace("drop", "columns")):
            prepare(replace(settings, **change), seed=2, folder=tmp_path / "data")
        with pytest.raises(ValueError, match="data"):
            find_data(replace(source, **change), seed=2)
    (tmp_path / "data" / "train.npy").write_bytes(b"")
    with pytest.raises(DamagedError, match=r"train\.npy"):
        prepare(settings, seed=2, folder=tmp_path / "data")


def test_a_folder_of_splits(tmp_path: Path) -> None:
    csv(tmp_path / "train.csv", ROWS[:40])
    csv(tmp_path / "val.csv", ROWS[40:50][:, [1, 0, 2]], "y,x,z")
    csv(tmp_path / "test.csv", ROWS[50:])
    found = find_data(config(tmp_path), seed=0)
    assert np.array_equal(found.validation[:], ROWS[40:50])
    other, split = find_split(tmp_path, "test", config(tmp_path, columns=("z",)))
    assert (split, other.columns) == ("test", ("z",))
    csv(tmp_path / "val.csv", ROWS[40:50], "y,x,w")
    with pytest.raises(ValueError, match=r"val\.csv.*'z'"):
        find_data(config(tmp_path), seed=0)


def test_equal_rows_stay_in_one_split(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[:, 0] = np.where(rows[:, 0] < 0, 0.0, rows[:, 0])
    rows = np.repeat(rows, 5, axis=0)
    rows[::5, 0] = np.where(rows[::5, 0] == 0, -0.0, rows[::5, 0])
    csv(tmp_path / "x.csv", rows)
    with pytest.warns(UserWarning, match="240 of 300"):
        found = find_data(config(tmp_path / "x.csv"), seed=0)
    seen = [{tuple(row) for row in found.splits[split][:]} for split in found.splits]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 60
    assert found.counts == {"train": 240, "validation": 30, "test": 30}


def test_columns_without_a_density(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[:, 1] = 7
    with pytest.raises(ValueError, match="'y'"):
        find_data(config(csv(tmp_path / "x.csv", rows)), seed=0)
    rows[:, 1] = np.arange(60) % 2
    with pytest.warns(UserWarning, match="'y'"):
        find_data(config(csv(tmp_path / "x.csv", rows)), seed=0)
    find_data(config(tmp_path / "x.csv", noise=0.1), seed=0)  # no warning
    with pytest.raises(ValueError, match="columns"):
        find_data(config(tmp_path / "x.csv", columns=("x",)), seed=0)


def mixed(path: Path, cities: list[str] | None = None, rows: np.ndarray = ROWS) -> Path:
    cities = cities or ["Bonn", "01", "1"] * 20
    lines = [
        f"{x!r},{city},{y!r},{z!r}" for (x, y, z), city in zip(rows.tolist(), cities, strict=True)
    ]
    return written(path, "\n".join(["x,city,area,z", *lines]))


def test_context_columns_are_numbers_and_categories(tmp_path: Path) -> None:
    path = mixed(tmp_path / "x.csv")
    settings = config(path, context_columns=("area", "city"))
    found = prepare(settings, seed=1, folder=tmp_path / "data")
    assert found.columns == ("x", "z")
    columns = (ContextColumn("area"), ContextColumn("city", ("01", "1", "Bonn")))
    assert found.context_values == columns
    assert found.labels is not None
    for split in found.splits:
        for row, context in zip(found.splits[split], found.labels[split], strict=True):
            i = int(np.flatnonzero((ROWS[:, [0, 2]] == row).all(1))[0])
            place = [2, 0, 1][i % 3]
            assert context.tolist() == [ROWS[i, 1], *np.eye(3)[place]]
    resolved = replace(settings, context_values=columns, columns=("x", "z"))
    assert read_context(path, resolved).shape == (60, 4)
    assert open_splits(tmp_path / "data").context_values == columns
    rows, _ = find_split(path, "test", resolved)
    assert rows.labels is not None
    assert np.array_equal(rows.labels["all"], read_context(path, resolved))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("area,city\n1,Rome", "column 'city', row 1"),
        ("area,city\n1,Bonn\n1,", "column 'city', row 2"),
        ("area,city\n,Bonn", "column 'area', row 1"),
        ("area,city\nbig,Bonn", "'area'"),
        ("area,town\n1,Bonn", "'city'"),
    ],
)
def test_context_that_training_did_not_have(tmp_path: Path, text: str, word: str) -> None:
    columns = (ContextColumn("area"), ContextColumn("city", ("Bonn", "Paris")))
    settings = config(tmp_path, context_columns=("area", "city"), context_values=columns)
    with pytest.raises(ValueError, match=word):
        read_context(written(tmp_path / "new.csv", text), settings)


def test_context_that_cannot_be_learned(tmp_path: Path) -> None:
    path = mixed(tmp_path / "x.csv", ["Bonn", ""] * 30)
    with pytest.raises(ValueError, match="row 2"):
        find_data(config(path, context_columns=("city",)), seed=0)
    with pytest.raises(ValueError, match="'city'"):
        find_data(config(path), seed=0)
    with pytest.raises(ValueError, match="'town'"):
        find_data(config(path, context_columns=("town",)), seed=0)
