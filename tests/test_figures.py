"""Each picture of `realnvp figures`, as a user gets it."""

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import realnvp
from realnvp.cli.main import run
from realnvp.data.dataset import dequantize
from realnvp.figures import IMAGES, draw_figures
from realnvp.figures.grids import grid, joined
from realnvp.flows.flow import Flow
from realnvp.io.pretrained import load_flow
from realnvp.random import Purpose, uniform

Out = pytest.CaptureFixture[str]
PICTURES = {
    "samples": ["samples", "samples-temperature"],
    "manifold": ["manifold"],
    "extrapolation": ["extrapolation"],
    "compression": ["compression"],
    "latents": [
        "latents",
        "latents-maps",
        "latents-bits",
        "latents-extremes",
        "latents-neighbors",
        "latents-distances",
    ],
    "curves": ["curves"],
}


@pytest.fixture(scope="session")
def drawn(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every figure of the tiny run, with arrays. Only read it."""
    folder = tmp_path_factory.mktemp("figures") / "new" / "folder"
    written = draw_figures(load_flow(run_dir), run_dir, out=folder, arrays=True)
    assert sorted(written) == sorted(folder.iterdir())
    return folder


def array(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", allow_pickle=False)


def test_every_figure_is_a_picture_that_prints(drawn: Path) -> None:
    assert list(PICTURES) == list(IMAGES)
    assert {path.stem for path in drawn.glob("*.png")} == {
        name for names in PICTURES.values() for name in names
    }
    for path in drawn.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 200, path
            assert max(picture.size) > 500, path
            assert picture.info["dpi"] == pytest.approx((150, 150), abs=1)
            assert len(picture.getcolors(2**24) or ()) > 10, path


def test_manifold_has_its_four_images_in_red_borders(drawn: Path, run_dir: Path) -> None:
    points, validation = (
        array(drawn, "manifold-images"),
        np.load(run_dir / "data" / "validation.npy"),
    )
    corners = array(drawn, "manifold-corners").tolist()
    for row, column in corners:
        assert (validation == points[8 * row + column]).all((1, 2, 3)).any()
    with Image.open(drawn / "manifold.png") as picture:
        red = (np.asarray(picture) == (214, 39, 40)).all(-1)
    pitch = (red.shape[1] - 16 + 2) / 8
    rows, columns = np.nonzero(red)
    found = {
        (int((y - 8) // pitch), int((x - 8) // pitch)) for y, x in zip(rows, columns, strict=True)
    }
    assert found == {(row, column) for row, column in corners}


def test_celebas_manifold_is_of_training_images(run_dir: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run_dir, tmp_path / "run")
    about = run / "data" / "dataset.json"
    about.write_text(about.read_text().replace('"digits"', '"celeba"'))
    flow = load_flow(run_dir)
    assert flow.config is not None
    flow.config = dataclasses.replace(
        flow.config, data=dataclasses.replace(flow.config.data, set="celeba")
    )
    draw_figures(flow, run, only=["manifold"], out=tmp_path, arrays=True)
    train = np.load(run / "data" / "train.npy")
    assert (train == array(tmp_path, "manifold-images")[2]).all((1, 2, 3)).any()


def test_compression_starts_with_the_images_themselves(drawn: Path, run_dir: Path) -> None:
    table, validation = (
        array(drawn, "compression-images"),
        np.load(run_dir / "data" / "validation.npy"),
    )
    assert table.shape == (16, 2, 8, 8, 1)
    assert array(drawn, "compression-fractions").tolist() == [1, 0.5]
    assert all((validation == image).all((1, 2, 3)).any() for image in table[:, 0])
    assert (table[:, 1] != table[:, 0]).any((1, 2, 3)).all()


def test_extrapolation_has_both_sizes(drawn: Path) -> None:
    assert [array(drawn, f"extrapolation-x{factor}").shape[1:3] for factor in (1, 2, 10)] == [
        (8, 8),
        (16, 16),
        (80, 80),
    ]


def test_samples_are_those_of_the_sample_command(
    drawn: Path, run_dir: Path, tmp_path: Path
) -> None:
    assert run(["sample", str(run_dir), "-n", "64", "--out", str(tmp_path / "s.npy")]) == 0
    samples = np.load(tmp_path / "s.npy")
    assert (array(drawn, "samples-samples") == samples).all()
    rows = array(drawn, "samples-temperature-samples").reshape(5, 10, 8, 8, 1)
    assert (rows[4] == samples[:10]).all()
    assert (rows[0] != rows[4]).any()


def test_extremes_are_those_of_bits_per_dim(drawn: Path, run_dir: Path) -> None:
    test = np.load(run_dir / "data" / "test.npy")
    bits = realnvp.bits_per_dim(load_flow(run_dir), test.transpose(0, 3, 1, 2)).per_image.numpy()
    order = np.argsort(bits)
    for words, chosen in (("fewest", order[:20]), ("most", order[::-1][:20])):
        assert (array(drawn, f"latents-extremes-{words}") == test[chosen]).all()
        np.testing.assert_allclose(
            array(drawn, f"latents-extremes-{words}-bits_per_dim"), bits[chosen], atol=1e-6
        )


def test_latents_are_those_that_the_bits_per_dim_are_about(drawn: Path, run_dir: Path) -> None:
    flow, images = load_flow(run_dir), np.load(run_dir / "data" / "test.npy").transpose(0, 3, 1, 2)
    noise = uniform((1, 8, 8), 0, Purpose.EVALUATE, indices=range(180))
    with torch.no_grad():
        z = flow.encode(dequantize(torch.from_numpy(images), noise))
    np.testing.assert_allclose(array(drawn, "latents-z"), z, atol=1e-4)
    np.testing.assert_allclose(array(drawn, "latents-maps-mean"), z.mean((0, 1)), atol=1e-4)


def test_maps_of_bits_add_up(drawn: Path, run_dir: Path) -> None:
    flow, bits = load_flow(run_dir), array(drawn, "latents-bits-bits_per_dim")
    images = np.load(run_dir / "data" / "test.npy").transpose(0, 3, 1, 2)[:20]
    with torch.no_grad():
        noise = uniform((1, 8, 8), 0, Purpose.EVALUATE, indices=range(20))
        nats = flow.log_prob(dequantize(torch.from_numpy(images), noise).double())
    np.testing.assert_allclose(bits.mean((1, 2)), -nats / (np.log(2) * 64), atol=1e-6)


def test_neighbors_are_pairs_at_the_smallest_distances(drawn: Path) -> None:
    pairs = [
        array(drawn, f"latents-neighbors-{name}").astype(float) for name in ("samples", "training")
    ]
    apart = np.sqrt(((pairs[0] - pairs[1]) ** 2).mean((1, 2, 3)))
    assert len(array(drawn, "latents-distances-test")) == 128
    np.testing.assert_allclose(apart, np.sort(array(drawn, "latents-distances-samples"))[:20])


def test_curves_are_those_of_the_metrics(drawn: Path, run_dir: Path) -> None:
    entries = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    expected = [
        entry["validation_bits_per_dim"] for entry in entries if "validation_bits_per_dim" in entry
    ]
    assert array(drawn, "curves-validation-value").tolist() == expected
    assert array(drawn, "curves-train-step").tolist() == [5, 10, 12]


def test_the_same_seed_gives_the_same_bytes(drawn: Path, run_dir: Path, tmp_path: Path) -> None:
    for seed, equal in ((0, True), (1, False)):
        only = ["manifold", "compression", "latents"]
        for path in draw_figures(
            load_flow(run_dir), run_dir, only=only, seed=seed, out=tmp_path / str(seed)
        ):
            assert (path.read_bytes() == (drawn / path.name).read_bytes()) == equal, path


def test_the_command(run_dir: Path, tmp_path: Path, capsys: Out) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run")
    assert run(["figures", str(copy), "--only", "curves", "--only", "compression", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == [
        str(copy / "figures" / name) for name in ("compression.png", "curves.png")
    ]
    assert sorted(path.name for path in (copy / "figures").iterdir()) == [
        "compression.png",
        "curves.png",
    ]


def test_images_that_are_not_finite_are_told(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Flow.decode

    def with_nan(flow: Flow, z: torch.Tensor) -> torch.Tensor:
        x = decode(flow, z)
        x[0, 0, 0, 0] = torch.nan
        return x

    monkeypatch.setattr(Flow, "decode", with_nan)
    with pytest.warns(UserWarning, match="1 of 16"):
        draw_figures(load_flow(run_dir), run_dir, only=["compression"], out=tmp_path)


def test_grids_place_each_image_with_whole_pixels() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    sheet = np.asarray(grid(images, levels=5, columns=2, side=16))
    assert sheet.shape == (3 * 16 + 2 * 2, 2 * 16 + 2, 3)
    for i, value in enumerate((0, 64, 128, 191, 255)):
        top, left = i // 2 * 18, i % 2 * 18
        assert (sheet[top : top + 16, left : left + 16] == value).all()
    one = grid(
        images[:1], levels=5, side=16, title="one", above=["above"], left=["left"], under=["under"]
    )
    assert joined([one, one], gap=3).width == 2 * one.width + 3
    assert joined([one, one], down=True, gap=3).height == 2 * one.height + 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grid(images[..., [0, 0, 0]], levels=256, side=1).size == (8 * 3 + 4, 8 * 2 + 2)


def test_one_scale_has_nothing_to_compress() -> None:
    with pytest.raises(ValueError, match="compression"):
        draw_figures(load_flow("digits-8"), "digits-8", only=["compression"])
