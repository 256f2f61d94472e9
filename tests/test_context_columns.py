"""Runs of tables with context columns: training, samples, scores, figures."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_output import Out, answer, refused

import realnvp
from realnvp.cli.main import run
from realnvp.config.fields import ContextColumn
from realnvp.io.run_dir import RunDir

HEADER = ["area", "city", "state", "price"]
QUICK = ["--model.num-couplings", "2", "--model.width", "8", "--train.max-steps", "4"]
QUICK += ["--train.batch-size", "64", "--train.tracker", "none", "--train.eval-every", "4"]
CONTEXT = ("--data.context_columns", "area", "city", "state")


def houses(path: Path, n: int = 90) -> Path:
    random = np.random.default_rng(0)
    area = random.uniform(20, 200, n)
    city = random.choice(["Athens", "Oslo, N"], n)
    state = random.choice(["poor", "fair", "good"], n)
    price = 1000 * area * np.where(city == "Athens", 1, 3) * np.exp(0.1 * random.standard_normal(n))
    rows = [list(map(str, row)) for row in zip(area, city, state, price, strict=True)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run: the price by the other columns."""
    folder = tmp_path_factory.mktemp("given")
    source = houses(folder / "houses.csv")
    command = ["train", "table", "--data.source", str(source), *CONTEXT, *QUICK]
    assert run([*command, "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


def test_the_configuration_has_the_context_columns(trained: Path) -> None:
    config = RunDir(trained).config
    assert config.data.columns == ("price",)
    assert config.data.context_columns == ("area", "city", "state")
    assert config.table.context_values == (
        ContextColumn("area"),
        ContextColumn("city", ("Athens", "Oslo, N")),
        ContextColumn("state", ("fair", "good", "poor")),
    )
    assert config.model.context_dim == 6
    flow = realnvp.load_flow(trained)
    c = [[100.0, 0.0, 1.0, 1.0, 0.0, 0.0]]
    assert flow.log_prob(torch.tensor([[3e5]]), context=c).isfinite().all()


def test_samples_of_each_row(trained: Path, tmp_path: Path, capsys: Out) -> None:
    new = houses(tmp_path / "new.csv", 3)
    answer(capsys, "sample", trained, "--context", new, "-n", "2", "--out", tmp_path / "s.csv")
    header, *rows = csv.reader((tmp_path / "s.csv").open())
    assert header == HEADER
    context = [row[:3] for row in csv.reader(new.open())][1:]
    assert [row[:3] for row in rows] == [each for each in context for _ in range(2)]
    assert len({row[3] for row in rows}) == 6
    answer(capsys, "sample", trained, "--context", new, "-n", "2", "--out", tmp_path / "s.npy")
    prices = [float(row[3]) for row in rows]
    np.testing.assert_allclose(np.load(tmp_path / "s.npy")[:, 0], prices, rtol=1e-12)


def test_scores_and_evaluations_of_each_row(trained: Path, tmp_path: Path, capsys: Out) -> None:
    new = houses(tmp_path / "new.csv", 20)
    scores: Any = answer(capsys, "score", trained, new)["scores"]
    flow = realnvp.load_flow(trained)
    rows = [*csv.reader(new.open())][1:]
    cities, states = ("Athens", "Oslo, N"), ("fair", "good", "poor")
    c = [
        [float(area), *(city == each for each in cities), *(state == each for each in states)]
        for area, city, state, _ in rows
    ]
    price = torch.tensor([[float(row[3])] for row in rows], dtype=torch.float64)
    expected = flow.log_prob(price, context=np.array(c, dtype=np.float64)).detach()
    np.testing.assert_allclose([entry["log_prob"] for entry in scores], expected, rtol=1e-6)
    other = answer(capsys, "evaluate", trained, "--data.source", new)
    assert other["log_likelihood"] == pytest.approx(expected.mean().item(), rel=1e-6)
    own = answer(capsys, "evaluate", trained)
    assert own["num_rows"] == 9


def test_a_conditional_table_is_resumed_drawn_and_checked(trained: Path) -> None:
    source = RunDir(trained).config.data.source
    command = ["train", "table", "--data.source", str(source), *CONTEXT, *QUICK]
    assert run([*command, "--run-dir", str(trained)]) == 0
    assert run(["figures", str(trained), "--only", "pairs"]) == 0
    assert run(["check", str(trained)]) == 0


@pytest.mark.parametrize(
    ("text", "word"),
    [(None, "--context"), (",".join(HEADER) + "\n", "new.csv"), ("area,price\n1,2\n", "'city'")],
)
def test_a_bad_context_is_named(
    trained: Path, tmp_path: Path, capsys: Out, text: str | None, word: str
) -> None:
    (tmp_path / "new.csv").write_text(text or "")
    context = ["--context", tmp_path / "new.csv"] if text else []
    assert word in refused(capsys, "sample", trained, *context, "--out", tmp_path / "s.csv")


def test_two_columns_are_drawn_for_three_contexts(tmp_path: Path) -> None:
    context = ["--data.context_columns", "city", "state"]
    source = str(houses(tmp_path / "two.csv", n=100))
    command = ["train", "table", "--data.source", source, *context, *QUICK]
    assert run([*command, "--run-dir", str(tmp_path / "run")]) == 0
    assert run(["figures", str(tmp_path / "run"), "--only", "conditional", "--arrays"]) == 0
    log_p = np.load(tmp_path / "run" / "figures" / "conditional-log_p.npy")
    assert log_p.shape == (3, 200, 200)
    assert np.isfinite(log_p).all()
    assert np.abs(log_p[0] - log_p[2]).max() > 0
