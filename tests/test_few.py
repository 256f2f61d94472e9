"""Runs of few held-out images or rows: figures and report show what can be shown, and check fails
no sound flow.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realnvp.cli.main import run
from realnvp.figures import FIGURES, draw, draw_figures, drawn_figures
from realnvp.figures.drawing import Drawing, TrainedRun
from realnvp.io.pretrained import load_flow

Out = pytest.CaptureFixture[str]
SMALL = [
    "--device",
    "cpu",
    "--train.max-steps",
    "4",
    "--train.batch-size",
    "4",
    "--train.log-every",
    "2",
]
SMALL += ["--train.eval-every", "2", "--train.moment-batches", "8", "--train.tracker", "none"]


def trained(folder: Path, images: np.ndarray, *more: str) -> Path:
    """A run of four steps on these images."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    data = [
        "images",
        "--data.source",
        str(folder / "images.npy"),
        "--model.width",
        "4",
        "--model.num-blocks",
        "1",
    ]
    assert run(["train", *data, "--run-dir", str(folder / "run"), *SMALL, *more]) == 0
    return folder / "run"


def table(folder: Path, columns: int) -> Path:
    """A run of four steps on 14 rows, of which one is for validation, and one for test."""
    np.save(folder / "rows.npy", np.random.default_rng(0).standard_normal((14, columns)))
    data = ["table", "--data.source", str(folder / "rows.npy"), "--model.width", "4"]
    assert run(["train", *data, "--run-dir", str(folder / "run"), *SMALL]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A run with so many held-out images. Only read it."""
    runs: dict[int, Path] = {}

    def made(count: int) -> Path:
        if count not in runs:
            total = max(10, 4 * count)
            images = np.random.default_rng(0).integers(256, size=(total, 8, 8, 3), dtype=np.uint8)
            runs[count] = trained(
                tmp_path_factory.mktemp("few"),
                images,
                "--data.val-fraction",
                str((count + 0.01) / total),
            )
            assert len(np.load(runs[count] / "data" / "test.npy")) == count
        return runs[count]

    return made


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_the_report_of_few_images_shows_all_but_the_manifold(
    of: Callable[[int], Path], count: int, tmp_path: Path, capsys: Out
) -> None:
    copy = shutil.copytree(of(count), tmp_path / "run")
    capsys.readouterr()
    assert run(["report", str(copy), "--device", "cpu", "--json"]) == 0
    captured = capsys.readouterr()
    why = f"needs four validation images, the run has {count}"
    missing = {} if count == 30 else {"manifold": why}
    assert json.loads(captured.out)["missing"] == missing
    page = (copy / "report.html").read_text()
    for name in FIGURES:
        assert (f"<h2>{name}</h2><p>Left out: {why}.</p>" in page) == (name in missing)
        assert (
            (copy / "figures" / f"{name}.png").exists()
            == (f'<img alt="{name}"' in page)
            == (name not in missing)
        )
    assert [line for line in captured.err.splitlines() if "warning" in line] == [
        f"realnvp: warning: {name} is left out: {words}" for name, words in missing.items()
    ]
    assert run(["figures", str(copy), "--only", "curves", "--only", "manifold"]) == (
        2 if missing else 0
    )
    assert capsys.readouterr().err == (f"realnvp: error: manifold: {why}\n" if missing else "")


@pytest.mark.parametrize("columns", [2, 3])
def test_one_validation_row_has_no_error_and_is_drawn_all_the_same(
    columns: int, tmp_path: Path, capsys: Out
) -> None:
    folder = table(tmp_path, columns)
    capsys.readouterr()
    assert run(["report", str(folder), "--device", "cpu", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["missing"] == {}
    assert "warning" not in captured.err
    draw_figures(load_flow(folder), folder, only=["curves"], out=tmp_path / "out", arrays=True)
    value, error = (
        np.load(tmp_path / "out" / f"curves-validation-{name}.npy") for name in ("value", "error")
    )
    assert len(value) == len(error) == 3
    assert np.isfinite(value).all()
    assert np.isnan(error).all()


def test_recoloured_grey_images_have_no_other_views(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(256, size=(40, 8, 8), dtype=np.uint8)
    folder = trained(tmp_path, images, "--data.recolour")
    drawn = drawn_figures(load_flow(folder), folder, only=["latents"], out=tmp_path / "out")
    assert drawn.missing == {}
    assert tmp_path / "out" / "latents-neighbours.png" in drawn.files


def of_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


# What really happens where so much is asked for.
EXHAUSTED: dict[str, Callable[[], object]] = {
    "Python": lambda: bytearray(2**62),
    "numpy": lambda: np.empty(2**60, np.uint8),
    "torch": lambda: torch.empty(2**60, dtype=torch.uint8),
    "torch on a GPU": of_a_gpu,
}


@pytest.mark.parametrize("kind", EXHAUSTED)
def test_a_figure_that_needs_too_much_memory_is_left_out_alone(
    of: Callable[[int], Path],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Out,
) -> None:
    def extrapolation(run: TrainedRun) -> Iterator[Drawing]:
        EXHAUSTED[kind]()
        yield from ()

    figures: dict[str, Any] = {name: draw.IMAGES[name] for name in ("samples", "compression")} | {
        "extrapolation": extrapolation
    }
    monkeypatch.setattr(draw, "IMAGES", figures)
    words = "extrapolation is left out: not enough memory for it"
    flow = load_flow(of(3))  # trained by the command, which changes how warnings are shown
    with pytest.warns(UserWarning, match=words):
        drawn = drawn_figures(flow, of(3), out=tmp_path)
    assert [path.stem for path in drawn.files] == ["samples", "samples-temperature", "compression"]
    assert drawn.missing == {"extrapolation": "not enough memory for it"}
    assert (
        run(
            [
                "figures",
                str(of(3)),
                "--only",
                "extrapolation",
                "--out",
                str(tmp_path),
                "--device",
                "cpu",
            ]
        )
        == 2
    )
    assert "not enough" in capsys.readouterr().err


def test_metrics_that_are_damaged_cost_the_curves_alone(
    of: Callable[[int], Path], tmp_path: Path, capsys: Out
) -> None:
    copy = shutil.copytree(of(3), tmp_path / "run")
    (copy / "metrics.jsonl").write_text("{}{}\n")
    assert run(["report", str(copy), "--device", "cpu"]) == 0
    assert f"curves is left out: {copy}/metrics.jsonl: not the metrics" in capsys.readouterr().err
    assert run(["figures", str(copy), "--only", "curves"]) == 1


def test_an_error_in_the_program_is_not_hidden(
    of: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: TrainedRun) -> Iterator[Drawing]:
        raise IndexError("a defect")

    monkeypatch.setattr(draw, "IMAGES", {"samples": broken})
    with pytest.raises(IndexError, match="a defect"):
        drawn_figures(load_flow(of(3)), of(3), out=tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_check_fails_no_sound_flow(of: Callable[[int], Path], count: int, capsys: Out) -> None:
    assert run(["check", str(of(count)), "--device", "cpu"]) == 0, capsys.readouterr().out
