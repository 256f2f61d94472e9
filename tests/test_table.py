"""Tables: read, trained, evaluated, sampled, scored; the density is one of the columns in their
own units.
"""

import csv
import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from told import Out, answer, refused

import realnvp.training.loop
from realnvp.cli.main import run
from realnvp.config import PRESETS, Config, ModelConfig, TrainConfig, to_json
from realnvp.data import find_data, read_table
from realnvp.data.tables import warn_of_unbounded
from realnvp.evaluation.check import check
from realnvp.evaluation.likelihood import log_probs
from realnvp.figures import draw_figures
from realnvp.figures.plots import MASSES
from realnvp.flows.build import vector_flow
from realnvp.flows.modern import standardize
from realnvp.io.checkpoint import newest_checkpoint
from realnvp.io.pretrained import load_flow, save_flow
from realnvp.io.run_dir import RunDir
from realnvp.moments import EPS
from realnvp.training.loop import train
from realnvp.training.run import Run
from realnvp.training.session import TrainingStopped

NAMES = ("height, m", "weight", "seconds")
TINY = dataclasses.replace(
    PRESETS["table"],
    model=ModelConfig("vector", width=8, num_blocks=1, num_couplings=4),
    train=TrainConfig(
        max_steps=12, batch_size=32, log_every=5, eval_every=6, save_every=4, lr=5e-3
    ),
)


def people(count: int = 400) -> np.ndarray:
    """Rows whose columns differ by twelve orders of magnitude, and depend on each other."""
    z = np.random.default_rng(0).standard_normal((count, 3))
    return np.stack([1.7 + 0.1 * z[:, 0], 70 + 5 * z[:, 0] ** 2 + z[:, 1], 1.7e9 + 10 * z[:, 2]], 1)


def write_csv(path: Path, rows: np.ndarray, names: tuple[str, ...] = NAMES) -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerows([names, *rows.tolist()])
    return path


def of(source: Path, config: Config = TINY) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, source=str(source)))


@pytest.fixture(scope="session")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training on `people`. Only read it."""
    folder = tmp_path_factory.mktemp("tables")
    train(of(write_csv(folder / "people.csv", people())), folder / "run", device="cpu")
    AcceleratorState._reset_state(True)
    return folder / "run"


# Reading

CSV: dict[str, tuple[str, tuple[str, ...]]] = {
    "with a header": ("a,b\n1,2\n-3.5,4e2\n", ("a", "b")),
    "without": ("1,2\n-3.5,4e2\n", ("x1", "x2")),
    "of semicolons": ("a;b, c\n1;2\n-3.5;4e2\n", ("a", "b, c")),
    "of tabs": ("a\tb\n1\t2\n-3.5\t4e2\n", ("a", "b")),
    "quoted, of Windows": ('\ufeff"a ""x""","b\nc"\r\n"1","2"\r\n-3.5,4e2\r\n', ('a "x"', "b\nc")),
    "with empty lines and spaces": ("a, b\n 1, 2\n\n-3.5 ,4e2\n\n", ("a", "b")),
}


@pytest.mark.parametrize("kind", CSV)
def test_csv(tmp_path: Path, kind: str) -> None:
    text, names = CSV[kind]
    (tmp_path / "t.csv").write_bytes(text.encode())
    rows, columns = read_table(tmp_path / "t.csv")
    assert columns == names
    assert rows.dtype == np.float64
    assert (rows == [[1, 2], [-3.5, 400]]).all()
    assert (read_table(tmp_path / "t.csv", (names[1],))[0] == [[2], [400]]).all()


def test_npy_and_parquet_give_the_numbers_of_csv(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = people(20)
    write_csv(tmp_path / "t.csv", rows)
    np.save(tmp_path / "t.npy", rows)
    columns = dict(zip(NAMES, rows.T, strict=True)) | {"who": ["x"] * 20, "n": np.arange(20)}
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    assert np.array_equal(read_table(tmp_path / "t.csv")[0], rows)
    assert np.array_equal(read_table(tmp_path / "t.npy")[0], rows)
    assert read_table(tmp_path / "t.npy", ("x3", "x1"))[1] == ("x3", "x1")
    found, names = read_table(tmp_path / "t.parquet", (NAMES[2], "n"))
    assert names == (NAMES[2], "n")
    assert np.array_equal(found, np.stack([rows[:, 2], np.arange(20)], 1))


def test_splits_of_a_folder_are_taken_and_others_cut_off_by_the_seed(tmp_path: Path) -> None:
    rows = people(40)
    folder = tmp_path / "set"
    folder.mkdir()
    write_csv(folder / "train.csv", rows[:30])
    np.save(folder / "other.npy", rows)
    write_csv(folder / "test.csv", rows[30:, ::-1], NAMES[::-1])  # found by name
    source = find_data(of(folder).data, seed=0)
    assert source.counts == {"train": 27, "validation": 3, "test": 10}
    assert np.array_equal(source.test[:], rows[30:])
    cut = [find_data(of(folder).data, seed=seed).validation[:] for seed in (0, 0, 1)]
    assert np.array_equal(cut[0], cut[1])
    assert not np.array_equal(cut[0], cut[2])


def test_what_lets_a_density_grow_without_bound_is_told(tmp_path: Path) -> None:
    rows = people(200)
    rows = np.column_stack([rows, np.arange(200) % 3, 2 * rows[:, 1] - 5])
    source = write_csv(tmp_path / "t.csv", rows, (*NAMES, "kind", "pounds"))
    with pytest.warns(UserWarning, match="without bound") as told:
        find_data(of(source).data, seed=0)
    few, tied = [str(warning.message) for warning in told]
    assert "kind: few different values" in few
    assert "weight, pounds: each follows from the others" in tied


def test_a_value_that_is_rare_is_no_obstacle(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((30_000, 3))
    rows[:, 2] = 0
    rows[1000:1020, 2] = (
        # not all of them are left out of train; every third row, which is looked at, may have none
        1
    )
    np.save(tmp_path / "t.npy", rows)
    with pytest.warns(UserWarning, match="x3: few different values"):
        assert find_data(of(tmp_path / "t.npy").data, seed=0).shape == (3,)
    constant = np.column_stack([rows[:, :2], rows[:, 0], np.zeros(len(rows))])
    with pytest.warns(UserWarning, match="a, c: each follows"):
        warn_of_unbounded(Path("t"), constant, ("a", "b", "c", "d"))


# The density


def test_a_fresh_flow_is_the_gaussian_of_the_training_rows() -> None:
    rows = people()
    flow = standardize(vector_flow(3, seed=1), rows)
    share = 3 / (3 + len(rows))  # of rows that are added, uncorrelated
    assumed = (1 - share) * np.corrcoef(rows.T) + (share + EPS) * np.eye(3)
    expected = -0.5 * (
        np.trace(np.linalg.solve(assumed, np.corrcoef(rows.T)))
        + np.linalg.slogdet(2 * math.pi * assumed)[1]
    )
    assert log_probs(flow, rows).mean() == pytest.approx(
        expected - np.log(rows.std(0)).sum(), abs=1e-6
    )
    z = flow.encode(
        torch.from_numpy(rows)
    )  # float32 weights, yet seconds since 1970 keep their digits
    assert z.mean(0).abs().max() < 1e-6
    assert (flow.eval().decode(z) - torch.from_numpy(rows)).abs().max() < 1e-5
    constant = standardize(vector_flow(2), np.full((5, 2), 0.1))
    assert constant.log_prob(torch.full((1, 2), 0.1, dtype=torch.float64)).isfinite().all()


def test_other_units_shift_the_log_density_by_their_logarithm(
    table_run: Path, tmp_path: Path
) -> None:
    units = np.array([1024.0, 1.0, 1 / 64])
    source = write_csv(tmp_path / "t.csv", people() * units)
    state = train(of(source), tmp_path / "run", device="cpu")
    first = RunDir(table_run).state
    assert first is not None
    assert first.best is not None
    assert state.best == pytest.approx(first.best - np.log(units).sum(), abs=1e-4)


def test_it_learns_more_than_a_gaussian(table_run: Path) -> None:
    lines = [json.loads(line) for line in (table_run / "metrics.jsonl").read_text().splitlines()]
    values = [
        line["validation_log_likelihood"] for line in lines if "validation_log_likelihood" in line
    ]
    assert len(values) == 3  # the first of the start
    train_rows, validation = (
        np.load(table_run / "data" / f"{split}.npy") for split in ("train", "validation")
    )
    gaussian = log_probs(standardize(vector_flow(3), train_rows), validation).mean().item()
    assert gaussian == pytest.approx(values[0], abs=1e-6)
    assert gaussian < values[1] < values[2] == RunDir(table_run).state.best  # type: ignore[union-attr]
    assert log_probs(load_flow(table_run), validation).mean().item() == pytest.approx(
        values[2], abs=1e-9
    )
    assert {"train_log_likelihood", "rows_per_second", "skipped"} <= lines[1].keys()


def test_of_few_rows_the_gaussian_may_stay_the_best(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "t.csv", np.random.default_rng(0).normal(size=(40, 3)))
    long = dataclasses.replace(
        TINY, train=dataclasses.replace(TINY.train, max_steps=40, eval_every=20, lr=0.1)
    )
    state = train(of(source, long), tmp_path / "run", device="cpu")
    assert state.best_step == 0
    assert (tmp_path / "run" / "model" / "best.safetensors").exists()


def test_a_training_that_did_not_help_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_csv(tmp_path / "t.csv", np.random.default_rng(0).normal(size=(40, 3)))
    long = dataclasses.replace(
        TINY, train=dataclasses.replace(TINY.train, max_steps=40, eval_every=20, lr=0.1)
    )
    (tmp_path / "config.json").write_text(to_json(of(source, long)))
    command = ["train", "--config", str(tmp_path / "config.json"), "--device", "cpu"]
    assert run([*command, "--run-dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "at step 0" in said.out
    assert "training has not helped" in said.err
    assert "--data.noise 0.05" in said.err


def test_a_table_in_a_pipe_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"t\.csv: a pipe or a device; save it as a file first"):
        train(of(tmp_path / "t.csv"), tmp_path / "run", device="cpu")


def test_stopped_and_resumed_is_bit_equal(
    table_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step_of_the_loop = {3, 7}, realnvp.training.loop.train_step

    def train_step(run: Run, x: torch.Tensor) -> tuple[float, float, int]:
        assert x.dtype == torch.float64
        if run.state.step in steps:
            steps.remove(run.state.step)
            os.kill(os.getpid(), signal.SIGTERM)
        return step_of_the_loop(run, x)

    monkeypatch.setattr(realnvp.training.loop, "train_step", train_step)
    config = of(table_run.parent / "people.csv")
    for _ in range(2):
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "run", device="cpu")
    train(config, tmp_path / "run", device="cpu")
    first, second = (tensors(folder) for folder in (table_run, tmp_path / "run"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(
        name.startswith("adam.bijection.bijections.0.") for name in first
    )  # the standardisation is not trained


def tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    newest = newest_checkpoint(run_dir)
    assert newest is not None
    return newest[0]


def test_fine_tuning_keeps_the_standardisation_that_the_weights_know(
    table_run: Path, tmp_path: Path
) -> None:
    config = of(write_csv(tmp_path / "t.csv", people() * 2))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=1))
    train(config, tmp_path / "run", device="cpu", init_from=table_run)
    name = "bijection.bijections.0.mean"
    assert torch.equal(
        load_flow(tmp_path / "run").state_dict()[name], load_flow(table_run).state_dict()[name]
    )


def test_batch_norm_bfloat16_additive_and_recomputation(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "t.csv", people(4000))
    config = dataclasses.replace(
        of(source), model=dataclasses.replace(TINY.model, coupling="additive", batch_norm=True)
    )
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(TINY.train, precision="bfloat16", gradient_checkpointing=True),
    )
    state = train(config, tmp_path / "run", device="cpu")
    assert state.skipped == 0
    assert run(["check", str(tmp_path / "run")]) == 0


# The commands


def test_evaluate(capsys: Out, table_run: Path, tmp_path: Path) -> None:
    test, flow = np.load(table_run / "data" / "test.npy"), load_flow(table_run)
    nats = flow.log_prob(torch.from_numpy(test)).detach().numpy()
    result = answer(capsys, "evaluate", table_run)
    assert result["log_likelihood"] == pytest.approx(nats.mean(), abs=1e-9)
    assert result["standard_error"] == pytest.approx(
        nats.std(ddof=1) / math.sqrt(len(nats)), abs=1e-9
    )
    assert (result["num_rows"], result["standard_error_over"], result["split"]) == (
        40,
        "rows",
        "test",
    )
    assert (result["dataset"], result["dataset_version"]) == ("table", "people.csv")
    assert not result.keys() & {"bits_per_dim", "num_images", "noise_draws", "paper"}
    assert json.loads((table_run / "evaluation.json").read_text()) == result
    assert (
        run(["evaluate", str(table_run), "--data.source", str(write_csv(tmp_path / "t.csv", test))])
        == 0
    )
    assert f"all: 40 rows\n  {nats.mean():.3f} +- " in capsys.readouterr().out


def test_sample(capsys: Out, table_run: Path, tmp_path: Path) -> None:
    answer(capsys, "sample", table_run, "-n", "70", "--seed", "5", "--out", tmp_path / "s.csv")
    rows, columns = read_table(tmp_path / "s.csv")
    assert columns == NAMES
    assert len(rows) == 70
    assert (
        answer(capsys, "sample", table_run, "-n", "3", "--seed", "5", "--out", tmp_path / "s.npy")[
            "num_rows"
        ]
        == 3
    )
    few = np.load(tmp_path / "s.npy")
    assert few.dtype == np.float64
    assert np.allclose(
        few, rows[:3], rtol=1e-7, atol=0
    )  # matrix products of another size round otherwise
    assert len(np.unique(rows[:, 2] % 1)) == 70  # float32 would leave whole hundreds of seconds
    assert answer(capsys, "sample", table_run)["out"] == str(table_run / "samples.csv")


def test_score_ranks_the_odd_row_first(capsys: Out, table_run: Path, tmp_path: Path) -> None:
    rows = people(30)
    rows[17, 1] = 300.0
    names = ("name", *NAMES[::-1])
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *[["x", *row[::-1]] for row in rows.tolist()]])
    assert (
        run(
            [
                "score",
                str(table_run),
                str(tmp_path / "t.csv"),
                "--out",
                str(tmp_path / "scores.csv"),
            ]
        )
        == 0
    )
    assert f"30 rows; the least likely is {tmp_path / 't.csv'}, row 18: " in capsys.readouterr().out
    with (tmp_path / "scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    assert [*scores[0]] == ["path", "row", "log_prob", "rank"]
    assert [int(score["row"]) for score in scores] == [*range(1, 31)]
    assert scores[17]["rank"] == "1"
    assert sorted(int(score["rank"]) for score in scores) == [*range(1, 31)]
    expected = load_flow(table_run).log_prob(torch.from_numpy(rows)).detach().numpy()
    assert np.allclose([float(score["log_prob"]) for score in scores], expected, atol=1e-9)


def test_check_info_dry_run_and_presets(capsys: Out, table_run: Path, tmp_path: Path) -> None:
    checks = answer(capsys, "check", table_run)
    assert checks["ok"]
    assert any("deviations" in str(check) for check in checks["checks"])  # type: ignore[attr-defined]
    info = answer(capsys, "info", table_run)
    assert info["config"]["data"]["columns"] == [*NAMES]  # type: ignore[index]
    assert info["best_validation_log_likelihood"] is not None
    source = table_run.parent / "people.csv"
    found: Any = answer(
        capsys, "train", "table", "--data.source", source, "--dry-run", "--device", "cpu"
    )
    assert found["data"]["counts"] == {"train": 320, "validation": 40, "test": 40}
    assert found["config"]["data"]["columns"] == [*NAMES]
    assert answer(capsys, "presets")["table"]["shape"] is None  # type: ignore[index]


def test_a_broken_flow_of_rows_fails_the_check(
    table_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realnvp.bijections import AffineCoupling
    from realnvp.evaluation.check import check

    flow, rows = load_flow(table_run), np.load(table_run / "data" / "test.npy")
    right = AffineCoupling.forward
    monkeypatch.setattr(
        AffineCoupling, "forward", lambda self, x: (right(self, x)[0] + 1e-3, right(self, x)[1])
    )
    assert any("decode" in entry.name for entry in check(flow, rows) if not entry.ok)
    monkeypatch.setattr(
        AffineCoupling, "forward", lambda self, x: (right(self, x)[0], 1.01 * right(self, x)[1])
    )
    assert {entry.name[:7] for entry in check(flow, rows) if not entry.ok} == {"log-det"}


def test_a_column_that_is_constant_in_what_is_checked_fails_no_check(table_run: Path) -> None:
    flow, rows = load_flow(table_run), np.array(np.load(table_run / "data/test.npy"))
    rows[:, 1] = rows[0, 1]
    assert [entry.name for entry in check(flow, rows) if not entry.ok] == []
    assert [entry.name for entry in check(flow, rows[:1]) if not entry.ok] == []


def test_columns_in_another_order_are_not_taken_for_the_flows(
    table_run: Path, tmp_path: Path, capsys: Out
) -> None:
    other = of(write_csv(tmp_path / "t.csv", people()[:, ::-1], NAMES[::-1]))
    train(
        dataclasses.replace(other, train=dataclasses.replace(TINY.train, max_steps=1)),
        tmp_path / "other",
        device="cpu",
    )
    assert (
        run(
            [
                "evaluate",
                str(table_run),
                "--data.source",
                str(tmp_path / "other/data"),
                "--device",
                "cpu",
            ]
        )
        == 2
    )
    assert (
        "its columns are not those of the flow, height, m, weight, seconds"
        in capsys.readouterr().err
    )


def test_the_runs_own_data_are_a_source_for_another(table_run: Path, tmp_path: Path) -> None:
    config = of(table_run / "data")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=1))
    train(config, tmp_path / "run", device="cpu")
    assert load_flow(tmp_path / "run").config.data.columns == NAMES  # type: ignore[union-attr]


def test_a_flow_made_in_python_is_saved_and_scored_without_names(
    capsys: Out, tmp_path: Path
) -> None:
    rows = people(20)
    save_flow(standardize(vector_flow(3), rows), tmp_path / "flow")
    np.save(tmp_path / "t.npy", rows)
    scores = answer(capsys, "score", tmp_path / "flow", tmp_path / "t.npy")["scores"]
    assert len(scores) == 20  # type: ignore[arg-type]
    answer(capsys, "sample", tmp_path / "flow", "-n", "2", "--out", tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text().startswith("x1,x2,x3\n")


# What is refused


def numbers(path: Path, rows: np.ndarray) -> Path:
    np.save(path, rows)
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


ROWS = people(200)
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda t: t / "no.csv", "no.csv: no such file"),
    "another kind of file": (
        lambda t: text(t / "a.xlsx", ""),
        "a.xlsx: no table that can be read (.csv .npy .parquet)",
    ),
    "an empty file": (lambda t: text(t / "a.csv", ""), "a.csv: has no rows"),
    "a header alone": (lambda t: text(t / "a.csv", "a,b\n"), "a.csv: has no rows"),
    "no text": (
        lambda t: numbers(t / "a.npy", ROWS).rename(t / "a.csv"),
        "start byte; save it as UTF-8",
    ),
    "missing values": (
        lambda t: write_csv(
            t / "a.csv", np.where(np.arange(600).reshape(200, 3) == 4, np.nan, ROWS)
        ),
        "a.csv: column 'weight' has 1 missing value, first in row 2 (--data.columns",
    ),
    "empty cells": (
        lambda t: text(t / "a.csv", "a,b\n1,2\n3,\n4,NA\n"),
        "column 'b' has 2 missing values, first in row 2",
    ),
    "a first row that lacks a value": (
        lambda t: text(t / "a.csv", "1.5,,3\n1,2,3\n4,5,6\n"),
        "a.csv: column 'x2' has 1 missing value, first in row 1 (",
    ),
    "names of digits": (
        lambda t: text(t / "a.csv", "a,b\n1,1_5\n2,12_34\n"),
        "a.csv: column 'b' holds text, '1_5' in row 1 first",
    ),
    "a mark of missing values": (
        lambda t: write_csv(
            t / "a.csv", np.where(np.arange(600).reshape(200, 3) == 4, -1.797e308, ROWS)
        ),
        "a.csv: column 'weight' has -1.797e+308 in row 2, beyond 3e+38",
    ),
    "infinite values": (
        lambda t: numbers(t / "a.npy", np.where(ROWS.max() == ROWS, np.inf, ROWS)),
        "a.npy: column 'x3' has 1 infinite value",
    ),
    "words": (
        lambda t: text(t / "a.csv", "a,b,c\n1,x,2\n3,4,yes\n"),
        "column 'b' holds text, 'x' in row 1 first; column 'c' holds text, 'yes' in row 2 first (",
    ),
    "a column that is constant": (
        lambda t: write_csv(t / "a.csv", ROWS * [1, 1, 0]),
        "column 'seconds' is 0 in all training rows",
    ),
    "a line that is too long": (
        lambda t: text(t / "a.csv", "a,b\n1,2\n3,4,5\n"),
        "a.csv: line 3 has 3 cells, the first 2",
    ),
    "two columns of a name": (
        lambda t: write_csv(t / "a.csv", ROWS, ("a", "b", "a")),
        "two columns are called 'a'",
    ),
    "lines that are too long": (
        lambda t: text(t / "a.csv", "a,b\n1,2,3\n3,4,5\n"),
        "a.csv: line 2 has 3 cells, the first 2",
    ),
    "a single column": (lambda t: write_csv(t / "a.csv", ROWS[:, :1], ("a",)), "has one column"),
    "images": (
        lambda t: numbers(t / "a.npy", np.ones((9, 8, 8), np.uint8)),
        "uint8 of shape (9, 8, 8); numbers of shape",
    ),
    "complex numbers": (
        lambda t: numbers(t / "a.npy", ROWS.astype(complex)),
        "complex128 of shape",
    ),
    "a damaged parquet": (lambda t: text(t / "a.parquet", "hello"), "a.parquet: "),
    "a folder of pictures": (
        lambda t: text(t / "a.png", "").parent,
        "holds no train.csv, train.npy, train.parquet; images: realnvp train images-modern",
    ),
    "an empty folder": (lambda t: t, "holds no train.csv, train.npy, train.parquet"),
    "too few rows": (
        lambda t: write_csv(t / "a.csv", ROWS[:2]),
        "data.source: too few training images (rows), 2,",
    ),
}


@pytest.mark.parametrize(
    "content",
    [
        '"a\nx",b\n1,2\n3,4\n',
        '"a\nx";"b,c"\n1;2\n3;4\n',
        "\n\na,b\n1,2\n\n3,4\n",
        "  \n1,2\n3,4\n",
        '"1","2"\n3,4\n   \n',
    ],
)
def test_line_breaks_in_a_header_and_blank_lines(tmp_path: Path, content: str) -> None:
    rows, names = read_table(text(tmp_path / "a.csv", content))
    assert rows.tolist() == [[1, 2], [3, 4]]
    assert names in (("a\nx", "b"), ("a\nx", "b,c"), ("a", "b"), ("x1", "x2"))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_table_is_one_line(capsys: Out, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    make, reason = BAD[kind]
    if "parquet" in kind:
        pytest.importorskip("pyarrow")
    source = make(tmp_path / "in")
    argv = (
        "train",
        "table",
        "--data.source",
        source,
        "--run-dir",
        tmp_path / "x",
        "--device",
        "cpu",
    )
    assert reason in refused(capsys, *argv)
    assert [path.name for path in (tmp_path / "x").rglob("*") if path.name != ".lock"] == []


def test_columns_can_be_chosen(capsys: Out, tmp_path: Path) -> None:
    source = text(
        tmp_path / "a.csv", "who,area,b\n" + "".join(f"x,{i},{(i * i) % 97}\n" for i in range(100))
    )
    command = [
        "train",
        "table",
        "--data.source",
        str(source),
        "--dry-run",
        "--json",
        "--data.columns",
    ]
    assert run([*command, "b", "area"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["data"]["columns"] == ["b", "area"]
    for columns, reason in (
        (["b", "aera"], "'aera' (did you mean 'area'?)"),
        (["b", "b"], "data.columns: ('b', 'b') must be"),
    ):
        assert run([*command, *columns]) == 2
        assert reason in capsys.readouterr().err


def test_the_way_to_a_verdict_names_rows(capsys: Out, table_run: Path, tmp_path: Path) -> None:
    """A run that came without its data takes normal rows from a table, not from a folder."""
    new = write_csv(tmp_path / "new.csv", people(9))
    copied = tmp_path / "run"
    shutil.copytree(table_run, copied, ignore=lambda folder, names: {"data"} & {*names})
    assert run(["score", str(copied), str(new)]) == 0
    assert "; --normal ROWS --top 10 says which of these rows are odd" in capsys.readouterr().err


def test_verdicts_on_rows(capsys: Out, table_run: Path, tmp_path: Path) -> None:
    """By the validation rows, or rows of one's own: percentile, p-value, and the oddest."""
    far = people(30)
    far[7] += [0.5, 60, 0]
    new, own = write_csv(tmp_path / "new.csv", far), write_csv(tmp_path / "own.csv", people())
    result = answer(capsys, "score", table_run, new, "--top", "2", "--false-alarms", "0.05")
    scores, flow = result["scores"], load_flow(table_run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that are read-only
        torch.set_warn_always(True)
        rows = np.load(table_run / "data" / "validation.npy", mmap_mode="r")
        normal = log_probs(flow, rows).numpy()
        torch.set_warn_always(False)
    for entry in scores:
        assert entry["percentile"] == round(100 * (normal > entry["log_prob"]).mean(), 1)
        p = (1 + (normal <= entry["log_prob"]).sum()) / (len(normal) + 1)
        assert entry["p_value"] == pytest.approx(p)
        assert entry["odd"] == (p <= 0.05)
    assert scores[7]["rank"] == 1
    assert scores[7]["odd"]
    assert (result["normal_rows"], result["false_alarms"]) == (40, 0.05)
    assert run(["score", str(table_run), str(new), "--normal", str(own), "--top", "1"]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("path,row,log_prob,rank,percentile,p_value,odd\n")
    assert "new.csv, row 8: " in error
    assert "rows odd at a false-alarm rate of at most .01 (400 normal rows)" in error


REFUSED: dict[str, tuple[list[str], str]] = {
    "the paper's table": (["table", "RUN"], "RUN: is of a table of numbers"),
    "codecs": (["evaluate", "RUN", "--codecs"], "--codecs: is for images"),
    "a file": (["compress", "RUN", "IMAGES", "--out", "OUT/a.rnvp"], "RUN: is of a table; the"),
    "views": (["evaluate", "RUN", "--views"], "--views: is for images"),
    "noise": (["evaluate", "RUN", "--noise-draws", "2"], "--noise-draws: is for images"),
    "noise of scores": (
        ["score", "RUN", "TABLE", "--noise-draws", "2"],
        "--noise-draws: is for images",
    ),
    "low precision": (
        ["sample", "RUN", "--fast", "--out", "OUT/s.csv"],
        "fast: only flows of images",
    ),
    "a picture of three columns": (
        ["sample", "RUN", "--out", "OUT/s.png"],
        "tables of two columns only, this one has 3",
    ),
    "another suffix": (["sample", "RUN", "--out", "OUT/s.xls"], "must end in .csv or .npy or .png"),
    "images for a table": (
        ["evaluate", "RUN", "--data.source", "IMAGES"],
        "uint8 of shape (9, 8, 8)",
    ),
    "a table for images": (["evaluate", "DIGITS", "--data.source", "TABLE"], "uint8 (N, H, W)"),
    "fewer columns": (["score", "RUN", "TABLE"], "no column 'height, m'"),
    "a folder to score": (["score", "RUN", "OUT"], "is a folder; name a table in it"),
    "levels": (
        ["train", "table", "--data.source", "TABLE", "--data.levels", "17"],
        "data.levels: 17 does not fit 'vector' models",
    ),
    "columns of images": (
        ["train", "images", "--data.source", "IMAGES", "--data.columns", "a"],
        "data.columns: ('a',) is for tables",
    ),
    "other columns than those prepared": (
        ["train", "table", "--data.source", "RUN/data", "--data.columns", "a", "b", "c"],
        "data.columns: RUN/data holds height, m, weight, seconds, in this order",
    ),
    "resized rows": (["score", "RUN", "TABLE", "--resize"], "--resize: is for images"),
    "mirrored rows": (
        ["train", "table", "--data.source", "TABLE", "--data.flip"],
        "data.flip: True is for images",
    ),
    "prepared images for a table": (
        ["train", "table", "--data.source", "DIGITS/data"],
        "data.set: ",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_makes_no_sense_for_a_table_is_refused(
    capsys: Out, table_run: Path, run_dir: Path, tmp_path: Path, kind: str
) -> None:
    argv, reason = REFUSED[kind]
    numbers(tmp_path / "images.npy", np.ones((9, 8, 8), np.uint8))
    numbers(tmp_path / "rows.npy", ROWS[:, :2])
    places = {"RUN": table_run, "DIGITS": run_dir, "OUT": tmp_path}
    places |= {"IMAGES": tmp_path / "images.npy", "TABLE": tmp_path / "rows.npy"}
    for name, place in places.items():
        argv, reason = (
            [word.replace(name, str(place)) for word in argv],
            reason.replace(name, str(place)),
        )
    if argv[0] == "train":
        argv += ["--run-dir", str(tmp_path / "x")]
    device = ("--device", "cpu") if argv[0] != "table" else ()
    assert reason in refused(capsys, *argv, *device)


def test_parquet_without_its_extra_says_what_to_install(
    capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    text(tmp_path / "a.parquet", "")
    assert run(["train", "table", "--data.source", str(tmp_path / "a.parquet"), "--dry-run"]) == 2
    assert "pip install 'realnvp[table]'" in capsys.readouterr().err


# Pictures


@pytest.fixture(scope="session")
def points_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training on two columns. Only read it."""
    folder = tmp_path_factory.mktemp("points")
    train(of(numbers(folder / "points.npy", people(4000)[:, :2])), folder / "run", device="cpu")
    AcceleratorState._reset_state(True)
    return folder / "run"


def test_a_plane_of_points_is_drawn(points_run: Path, tmp_path: Path) -> None:
    flow = load_flow(points_run)
    written = draw_figures(flow, points_run, out=tmp_path, arrays=True)
    assert {path.stem for path in written if path.suffix == ".png"} == {
        "density",
        "map",
        "latents",
        "curves",
    }
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 400
            assert len(picture.getcolors(2**24) or ()) > 10
    x, z, samples, sampled_z = (
        np.load(tmp_path / f"map-{name}.npy") for name in ("x", "z", "samples", "samples-z")
    )
    assert np.allclose(flow.decode(torch.from_numpy(z)).detach(), x, atol=1e-9)
    assert np.allclose(flow.encode(torch.from_numpy(samples)).detach(), sampled_z, atol=1e-9)
    # The areas hold what they say.
    inside = (
        log_probs(flow, flow.sample(4000, seed=9, dtype=torch.float64)).numpy()
        >= np.load(tmp_path / "density-edges.npy")[:, None]
    )
    assert np.allclose(inside.mean(1), MASSES, atol=0.03)


def test_pairs_of_columns_are_drawn(capsys: Out, table_run: Path, tmp_path: Path) -> None:
    assert run(["figures", str(table_run), "--out", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.iterdir()} == {"pairs", "latents", "curves"}
    assert run(["figures", str(table_run), "--only", "map"]) == 2
    assert "no figure 'map'; there are pairs, latents, curves" in capsys.readouterr().err


def test_samples_as_a_scatter_plot(points_run: Path, tmp_path: Path) -> None:
    assert (
        run(
            [
                "sample",
                str(points_run),
                "-n",
                "50",
                "--beside-data",
                "--out",
                str(tmp_path / "s.png"),
            ]
        )
        == 0
    )
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width > 1.5 * picture.height


def test_report(points_run: Path) -> None:
    assert run(["report", str(points_run)]) == 0
    page = (points_run / "report.html").read_text()
    result = json.loads((points_run / "evaluation.json").read_text())
    assert f"{result['log_likelihood']:.3f} +- {result['standard_error']:.3f} nats" in page
    assert page.count("<img") == 4
    assert "Another picture" not in page


def test_samples_do_not_depend_on_how_many_are_drawn(points_run: Path) -> None:
    flow = load_flow(points_run)
    whole = flow.sample(2100, seed=3, dtype=torch.float64)
    parts = torch.cat(
        [
            flow.sample(count, seed=3, first=first, dtype=torch.float64)
            for first, count in ((0, 5), (5, 2000), (2005, 95))
        ]
    )
    assert torch.allclose(whole, parts, rtol=1e-6)
    assert len(whole.unique(dim=0)) == 2100
    assert not torch.allclose(whole[:5], flow.sample(5, seed=4, dtype=torch.float64))
