"""What earlier versions wrote is read, evaluated and trained further, to the same numbers."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from realnvp.cli.main import run
from tests.earlier import COMMANDS, DATA, STEPS, curves, go_on, numbers, unpack

VERSIONS = sorted(
    path.name.removeprefix("runs-").removesuffix(".tar.xz") for path in DATA.glob("runs-*.tar.xz")
)
ON_CPU = ["--device", "cpu"]


def near(expected: Any) -> Any:
    """Equal to it, but for what CPUs round differently in float64; a number of steps later too."""
    if isinstance(expected, dict):
        return {name: near(entry) for name, entry in expected.items()}
    return (
        pytest.approx(expected, rel=1e-9, abs=1e-9)
        if isinstance(expected, float | list)
        else expected
    )


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runs(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the version's runs, which is also the working folder."""
    monkeypatch.chdir(tmp_path)
    return unpack(version, tmp_path)


@pytest.fixture
def stored(version: str) -> Any:
    return json.loads((DATA / f"runs-{version}.json").read_text())


def answer(*argv: str) -> dict[str, Any]:
    """What a command prints with --json."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run([*argv, "--json"]) == 0
    return dict(json.loads(said.getvalue()))


def test_there_are_runs_of_the_first_version() -> None:
    assert "0.1.0" in VERSIONS


@pytest.mark.parametrize("name", [*COMMANDS, "saved", "shared"])
def test_flows_are_the_same_density(runs: Path, stored: Any, name: str) -> None:
    """log_prob, encode and sample, of the best model and the last (of modern these differ)."""
    expected = {which: stored[name][which] for which in ("best", "last")}
    assert numbers(runs / name) == near(expected)


@pytest.mark.parametrize("name", COMMANDS)
def test_evaluations_are_the_same(runs: Path, name: str) -> None:
    before = json.loads((runs / name / "evaluation.json").read_text())
    again = answer("evaluate", name, *ON_CPU)
    known = {key: near(value) for key, value in before.items() if key != "seconds"}
    assert {key: again[key] for key in known} == known
    assert json.loads((runs / name / "evaluation.json").read_text()) == again


@pytest.mark.parametrize("name", COMMANDS)
def test_training_goes_on_by_the_same_command(runs: Path, stored: Any, name: str) -> None:
    before, sittings = (
        curves(runs / name),
        len(json.loads((runs / name / "environment.json").read_text())),
    )
    assert go_on(runs / name) == near(stored[name]["continued"])
    assert {
        key: values[: len(before[key])] for key, values in curves(runs / name).items()
    } == before
    assert len(json.loads((runs / name / "environment.json").read_text())) == sittings + 1
    assert answer("info", name)["step"] > STEPS


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_read_a_run(runs: Path, name: str) -> None:
    """The report takes the stored evaluation, since it is of the model that the run has."""
    evaluation = (runs / name / "evaluation.json").read_bytes()
    facts = answer("info", name)
    assert facts["evaluation"] == json.loads(evaluation)
    assert facts["step"] == STEPS
    assert facts["environment"]
    assert Path(answer("report", name, *ON_CPU)["report"]).exists()
    assert (runs / name / "evaluation.json").read_bytes() == evaluation
    assert answer("figures", name, "--only", "curves", *ON_CPU)["files"]
    assert answer("check", name, *ON_CPU)["ok"]


def test_the_table_takes_all_runs_of_images(runs: Path) -> None:
    rows = answer("table", "paper", "modern")["rows"]
    assert [row["bits_per_dim"] for row in rows] == [
        json.loads((runs / name / "evaluation.json").read_text())["bits_per_dim"]
        for name in ("paper", "modern")
    ]


def test_a_run_is_shared(runs: Path) -> None:
    """Over the folder that the earlier version shared: it is known as one, and replaced whole."""
    assert answer("share", "paper", "shared")["facts"]["evaluation"]["dataset"] == "digits"
    assert answer("info", "shared")["facts"]["step"] == STEPS


def test_no_path_of_a_machine_is_kept(runs: Path) -> None:
    text = "".join(
        path.read_text() for path in runs.rglob("*") if path.suffix in (".json", ".jsonl", ".md")
    )
    assert {*re.findall(r"""(?<=["'\s=])/[^\s"',]+""", text)} == {
        "/data/images.npy",
        "/data/rows.csv",
    }
