"""Runs of few held-out images or rows: figures and report show what can be shown."""

import shutil
from collections.abc import Callable
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
@pytest.mark.parametrize("count", [1, 3, 30])
def test_figures_of_few_images_lack_the_manifold_alone(
    of: Callable[[int], Path], count: int, tmp_path: Path, capsys: Out
) -> None:
    copy = shutil.copytree(of(count), tmp_path / "run")
    capsys.readouterr()
    assert run(["report", str(copy), "--device", "cpu"]) == 0
    warned = "manifold" in capsys.readouterr().err
    page = (copy / "report.html").read_text()
    shown = {name for name in IMAGES if f'<img alt="{name}"' in page}
    missing = {"manifold"} if count < 4 else set()
    assert shown == {*IMAGES} - missing
    assert warned == bool(missing)
    assert run(["figures", str(copy), "--only", "manifold"]) == (2 if missing else 0)


@pytest.mark.parametrize("columns", [2, 3])
def test_one_validation_row_has_no_error_and_is_drawn_all_the_same(
    columns: int, tmp_path: Path, capsys: Out
) -> None:
    folder = table(tmp_path, columns)
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
    images = np.random.default_rng(0).integers(256, size=(40, 8, 8), dtype=np.uint8)
    folder = trained(tmp_path, images, "--data.augment", "channel_shuffle")
    files = draw_figures(load_flow(folder), folder, only=["latents"], out=tmp_path / "out")
    assert tmp_path / "out" / "latents-neighbors.png" in files
