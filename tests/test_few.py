"""Runs of few held-out images or rows: figures and report show what can be shown."""

from pathlib import Path

import numpy as np
import pytest

from realnvp.cli.main import run
from realnvp.figures import IMAGES, draw_figures
from realnvp.io.pretrained import load_flow

Out = pytest.CaptureFixture[str]
SMALL = [
    "--device",
    "cpu",
    "--model.width",
    "4",
    "--train.max-steps",
    "4",
    "--train.tracker",
    "none",
]
SMALL += ["--train.batch-size", "4", "--train.log-every", "2", "--train.eval-every", "2"]
SMALL += ["--train.moment-batches", "8"]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def trained(folder: Path, data: np.ndarray, *more: str) -> Path:
    """A run of four steps on these images or rows."""
    np.save(folder / "data.npy", data)
    preset = ["images", "--model.num-blocks", "1"] if data.ndim > 2 else ["table"]
    where = ["--data.source", str(folder / "data.npy"), "--run-dir", str(folder / "run")]
    assert run(["train", *preset, *where, *SMALL, *more]) == 0
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 30])
def test_figures_of_few_images_lack_the_manifold_alone(
    count: int, tmp_path: Path, capsys: Out
) -> None:
    total = max(10, 4 * count)
    held_out = ["--data.val-fraction", str((count + 0.01) / total)]
    folder = trained(tmp_path, noise(total, 8, 8, 3), *held_out)
    assert len(np.load(folder / "data" / "test.npy")) == count
    capsys.readouterr()
    assert run(["report", str(folder), "--device", "cpu"]) == 0
    warned = "manifold" in capsys.readouterr().err
    page = (folder / "report.html").read_text()
    shown = {name for name in IMAGES if f'<img alt="{name}"' in page}
    missing = {"manifold"} if count < 4 else set()
    assert shown == {*IMAGES} - missing
    assert warned == bool(missing)
    assert run(["figures", str(folder), "--only", "manifold"]) == (2 if missing else 0)


@pytest.mark.parametrize("columns", [2, 3])
def test_one_validation_row_has_no_error_and_is_drawn_all_the_same(
    columns: int, tmp_path: Path, capsys: Out
) -> None:
    rows = np.random.default_rng(0).standard_normal((14, columns))  # one to validate, one to test
    folder = trained(tmp_path, rows)
    capsys.readouterr()
    assert run(["report", str(folder), "--device", "cpu", "--json"]) == 0
    captured = capsys.readouterr()
    assert "warning" not in captured.err
    draw_figures(load_flow(folder), folder, only=["curves"], out=tmp_path / "out", arrays=True)
    value, error = (
        np.load(tmp_path / "out" / f"curves-validation-{name}.npy") for name in ("value", "error")
    )
    assert len(value) == len(error) == 3
    assert np.isfinite(value).all()
    assert np.isnan(error).all()


def test_recolored_gray_images_have_no_other_views(tmp_path: Path) -> None:
    folder = trained(tmp_path, noise(40, 8, 8), "--data.augment", "channel_shuffle")
    files = draw_figures(load_flow(folder), folder, only=["latents"], out=tmp_path / "out")
    assert tmp_path / "out" / "latents-neighbors.png" in files
