"""The density averaged over the views that training showed: the same for each view; what `evaluate
--views` prints.
"""

import dataclasses
import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import realnvp
from realnvp.cli.main import run
from realnvp.config import PRESETS, Config, DataConfig, ModelConfig
from realnvp.evaluation.likelihood import averaged, log_probs, views_of
from realnvp.flows.build import build
from realnvp.training.batches import Batches

ALL = DataConfig(shape=(3, 8, 8), flip=True, turn=True, recolour=True)
OPTIONS = [
    dict(zip(("flip", "turn", "recolour"), on, strict=True))
    for on in [*product((False, True), repeat=3)][1:]
]


@pytest.mark.parametrize("on", OPTIONS, ids=str)
def test_the_views_are_what_training_shows(on: dict[str, bool]) -> None:
    """Each once, the image itself first, closed under one another; each image of a batch is one of
    its views, and all come.
    """
    image = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(1, 4, 4, 3)
    base = PRESETS["photos"]
    data = dataclasses.replace(base.data, **on)
    views = views_of(data, (3, 4, 4))
    x = torch.from_numpy(image).movedim(-1, 1)
    seen = {tuple(view(x).flatten().tolist()) for view in views}
    assert len(seen) == len(views) == 2 ** on["flip"] * 4 ** on["turn"] * 6 ** on["recolour"]
    assert torch.equal(views[0](x), x)
    assert {tuple(a(b(x)).flatten().tolist()) for a in views for b in views} == seen
    config = dataclasses.replace(
        base, data=data, train=dataclasses.replace(base.train, batch_size=500)
    )
    batch = Batches(image.repeat(500, 0), config, device=torch.device("cpu")).at(0)
    assert {tuple(one.floor().byte().flatten().tolist()) for one in batch} == seen


def test_the_average_over_views_is_a_density_of_its_own() -> None:
    """log of the mean of p over the views; the same for each view of an image; a flow's own where
    there is one view.
    """
    config = Config(data=ALL, model=ModelConfig(width=4, num_blocks=1))
    flow = build(config).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
            )
        x = 256 * torch.rand(
            2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        views = views_of(ALL, (3, 8, 8))
        whole = averaged(flow.log_prob, x, views)
        each = torch.stack([flow.log_prob(view(x)) for view in views])
        assert (each.std(0) > 1).all()
        peak = each.max(0).values
        assert whole == pytest.approx((each - peak).exp().mean(0).log() + peak, abs=1e-9)
        for view in views[::5]:
            assert averaged(flow.log_prob, view(x), views) == pytest.approx(whole, abs=1e-9)
        assert torch.equal(averaged(flow.log_prob, x, views[:1]), flow.log_prob(x))


def test_evaluate_over_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the flow's own number, which stays what it is; refused where training showed nothing
    but the images.
    """
    images = np.random.default_rng(0).integers(17, size=(60, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    trained = [
        *(
            "train",
            "images",
            "--data.source",
            str(tmp_path / "images.npy"),
            "--model.width",
            "4",
            "--model.num-blocks",
            "1",
        ),
        *(
            "--train.max-steps",
            "2",
            "--train.batch-size",
            "8",
            "--train.moment-batches",
            "2",
            "--train.tracker",
            "none",
        ),
        *("--device", "cpu", "--run-dir"),
    ]
    assert run([*trained, str(tmp_path / "plain")]) == 0
    assert run([*trained, str(tmp_path / "run"), "--data.flip", "--data.turn"]) == 0
    capsys.readouterr()
    evaluate = ["evaluate", str(tmp_path / "run"), "--noise-draws", "2"]
    assert run([*evaluate, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert run([*evaluate, "--views", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    views = result.pop("views")
    assert result.pop("seconds") >= 0
    assert result == {key: plain[key] for key in result}
    held_out = np.load(tmp_path / "run" / "data" / "test.npy").transpose(0, 3, 1, 2)
    expected = realnvp.bits_per_dim(
        realnvp.load_flow(tmp_path / "run"), held_out, noise_draws=2, views=True
    )
    assert views["count"] == 8
    assert views["bits_per_dim"] == pytest.approx(expected.mean, abs=1e-6)
    assert views["standard_error"] == pytest.approx(expected.standard_error, abs=1e-6)
    assert views["bits_per_dim"] < result["bits_per_dim"] + math.log2(8) / 64
    assert run([*evaluate, "--views"]) == 0
    assert "averaged over 8 views of each image" in capsys.readouterr().out
    assert run(["evaluate", str(tmp_path / "plain"), "--views"]) == 2
    assert "--views: " in capsys.readouterr().err


def test_views_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"views: turned images must be square, these are 8x16"):
        views_of(ALL, (3, 8, 16))
    for channels in (7, 2000):
        with pytest.raises(ValueError, match=f"views: {channels} channels have too many orders"):
            views_of(ALL, (channels, 8, 8))
    for data in (DataConfig(), DataConfig(recolour=True)):
        with pytest.raises(ValueError, match="views: training shows such an image as it is"):
            views_of(data, (1, 8, 8))
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="views: training shows such an image as it is"):
        realnvp.bits_per_dim(build(Config(data=DataConfig(shape=(3, 8, 8)))), images, views=True)
    with pytest.raises(ValueError, match="views: are of images"):
        log_probs(realnvp.vector_flow(2), torch.zeros(1, 2), views=True)
    flow = build(Config(data=ALL, model=ModelConfig(width=4, num_blocks=1)))
    realnvp.save_flow(flow, tmp_path / "flow")
    np.save(tmp_path / "wide.npy", np.zeros((3, 8, 16, 3), np.uint8))
    assert (
        run(
            [
                "evaluate",
                str(tmp_path / "flow"),
                "--views",
                "--data.source",
                str(tmp_path / "wide.npy"),
            ]
        )
        == 2
    )
    error = f"--views: turned images must be square, these are 8x16, {tmp_path / 'wide.npy'}"
    assert error in capsys.readouterr().err
