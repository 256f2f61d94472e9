"""What only a GPU can show: make gpu-test. Skipped where there is none.

`GPU_TESTS_ON=cpu python -m pytest tests/test_gpu.py` runs the same on the CPU, which shows that the tests themselves are right.
"""

import copy
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from realnvp.cli.main import run as command
from realnvp.config.fields import Config, TableData
from realnvp.config.json import to_json
from realnvp.config.presets import PRESETS
from realnvp.device import deterministic
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.build import build
from realnvp.flows.copies import fast
from realnvp.flows.flow import evaluating
from realnvp.io.pretrained import newest_checkpoint
from realnvp.training.batches import Batches
from realnvp.training.loop import train, train_step
from realnvp.training.run import Run, open_run
from realnvp.training.session import TrainingStopped
from tests.command_output import Out, in_two_processes
from tests.flows import shaken

DEVICE = torch.device(os.environ.get("GPU_TESTS_ON", "cuda"))
ON_GPU = DEVICE.type == "cuda"
NO_GPU = ON_GPU and not torch.cuda.is_available()
WHY = "no GPU (GPU_TESTS_ON=cpu tries the tests)"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason=WHY)]
SHAPES = {"digits": None, "digits-modern": None, "table": (3,)}


def small(preset: str, tmp_path: Path, **changes: object) -> Config:
    """The preset with a small flow and a short training; of a table one of 300 rows."""
    config = PRESETS[preset]
    if preset == "table":
        np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(300, 3)))
        data = replace(config.data, source=str(tmp_path / "rows.npy"), shape=(3,))
        config = replace(config, data=data)
    model = replace(config.model, width=8, num_blocks=1, num_couplings=2)
    few = {"max_steps": 6, "batch_size": 32, "eval_images": 60, "moment_batches": 2}
    every = {"log_every": 1, "eval_every": 6, "sample_every": 6, "save_every": 2}
    recipe: dict[str, Any] = {**few, **every, "tracker": "none", "precision": "float32", **changes}
    return replace(config, model=model, train=replace(config.train, **recipe))


def examples(config: Config, count: int = 16) -> Tensor:
    """Images v + u, or rows, float32, on the CPU."""
    assert config.data.shape is not None
    random = np.random.default_rng(1)
    shape = (count, *config.data.shape)
    if isinstance(config.data, TableData):
        return torch.from_numpy(random.normal(size=shape)).float()
    return torch.from_numpy(random.uniform(0, config.data.levels, size=shape)).float()


def a_step(
    tmp_path: Path, config: Config, device: torch.device, name: str
) -> tuple[tuple[float, float], list[Tensor]]:
    """Loss and norm of the gradient of a training's first step, and its weights afterwards."""
    with deterministic(), open_run(config, tmp_path / name, device=str(device)) as run:
        loss, norm, _ = train_step(run, run.batches.at(0))
        assert run.state.skipped == 0
        return (loss, norm), [weight.detach().cpu() for weight in run.flow.parameters()]


@pytest.mark.parametrize("preset", SHAPES)
def test_density_and_its_inverse_are_those_of_the_cpu(preset: str, tmp_path: Path) -> None:
    """float32 networks: log p to 1e-4 nats and dimension, back to 1e-3 gray levels or deviations."""
    config = small(preset, tmp_path)
    here, x = shaken(build(config), 0.05), examples(config)
    there, near = copy.deepcopy(here).to(DEVICE), partial(torch.testing.assert_close, rtol=0)
    with evaluating(here), evaluating(there):
        nats, z = here.log_prob(x.double()), here.encode(x.double())
        on_device, single = x.double().to(DEVICE), x.to(DEVICE)
        near(there.log_prob(on_device).cpu(), nats, atol=1e-4 * x[0].numel())
        near(there.decode(z.to(DEVICE)).cpu(), here.decode(z), atol=1e-3)
        near(there.decode(there.encode(on_device)), on_device, atol=1e-4)
        near(there.log_prob(single).cpu().double(), nats, atol=1e-3 * x[0].numel())


@pytest.mark.parametrize("preset", SHAPES)
def test_a_step_is_that_of_the_cpu(preset: str, tmp_path: Path) -> None:
    """precision float32 is float32: with TF32 a gradient would be off by 1e-3."""
    config = small(preset, tmp_path)
    expected, _ = a_step(tmp_path, config, torch.device("cpu"), "here")
    found, _ = a_step(tmp_path, config, DEVICE, "there")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("preset", SHAPES)
def test_a_step_in_bfloat16(preset: str, tmp_path: Path) -> None:
    """Networks in bfloat16 are near those in float32, and not the same."""
    expected, _ = a_step(tmp_path, small(preset, tmp_path), DEVICE, "float32")
    low = small(preset, tmp_path, precision="bfloat16")
    found, weights = a_step(tmp_path, low, DEVICE, "bfloat16")
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert all(weight.isfinite().all() and weight.dtype == torch.float32 for weight in weights)


@pytest.mark.parametrize("preset", SHAPES)
def test_stopped_and_resumed_is_bit_equal(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(preset, tmp_path)
    train(config, tmp_path / "whole", device=str(DEVICE))

    def stopping(run: Run, x: Tensor) -> tuple[float, float, int]:
        run.stop = [15] if run.state.step == 2 else []
        return train_step(run, x)

    with monkeypatch.context() as patch:
        patch.setattr("realnvp.training.loop.train_step", stopping)
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "parts", device=str(DEVICE))
    train(config, tmp_path / "parts", device=str(DEVICE))
    whole, parts = (newest_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert whole is not None
    assert parts is not None
    assert all(torch.equal(whole[0][name], parts[0][name]) for name in whole[0])


def test_fast_is_near(tmp_path: Path) -> None:
    config = small("digits-modern", tmp_path)
    flow = build(config).eval().to(DEVICE)
    pixels = examples(config).floor().to(torch.uint8)
    exact, quick = log_probs(flow, pixels), log_probs(fast(flow), pixels)
    torch.testing.assert_close(quick, exact, rtol=0, atol=0.05 * pixels[0].numel())


def test_numbers_do_not_depend_on_where_the_images_are(tmp_path: Path) -> None:
    config = small("digits", tmp_path)
    flow, pixels = build(config).eval().to(DEVICE), examples(config).floor().to(torch.uint8)
    assert torch.equal(log_probs(flow, pixels), log_probs(flow, pixels.to(DEVICE)))
    assert log_probs(flow, pixels).device.type == "cpu"


def test_batches_are_pinned_and_the_same(tmp_path: Path) -> None:
    config = small("digits", tmp_path)
    pixels = np.random.default_rng(0).integers(17, size=(96, 8, 8, 1)).astype(np.uint8)
    here = Batches(pixels, config, device=torch.device("cpu"))
    there = Batches(pixels, config, device=DEVICE)
    for step in range(5):
        batch = there.at(step)
        assert batch.device.type == DEVICE.type
        assert torch.equal(batch.cpu(), here.at(step))
        assert all(
            tensor is not None and tensor.is_pinned() == ON_GPU
            for tensor in there._ahead[step + 1].result()
        )


@pytest.mark.skipif(ON_GPU and torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("preset", SHAPES)
def test_two_processes_take_the_steps_of_one(preset: str, tmp_path: Path) -> None:
    config = small(preset, tmp_path, precision="float64", max_steps=3)
    train(config, tmp_path / "one", device=str(DEVICE))
    (tmp_path / "config.json").write_text(to_json(config))
    argv = ["--config", tmp_path / "config.json", "--run-dir", tmp_path / "two"]
    in_two_processes("-m", "realnvp", "train", *argv, "--device", DEVICE.type)
    norms = []
    for name in ("one", "two"):
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").open())
        norms.append([line["gradient_norm"] for line in lines if "gradient_norm" in line])
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-6)


def test_every_command(tmp_path: Path, capsys: Out) -> None:
    """On a run of a few steps, each once; what each prints is looked at elsewhere."""
    config, run = small("digits-modern", tmp_path), str(tmp_path / "run")
    (tmp_path / "config.json").write_text(to_json(config))
    picture = str(tmp_path / "s.png")
    on = ["--device", DEVICE.type]
    for argv in (
        ["train", "--config", str(tmp_path / "config.json"), "--run-dir", run, *on],
        ["evaluate", run, "--noise-draws", "2", *on],
        ["sample", run, "-n", "4", "--out", str(tmp_path / "s.npy"), *on],
        ["sample", run, "-n", "1", "--fast", "--out", picture, *on],
        ["figures", run, *on],
        ["report", run, *on],
    ):
        assert command(argv) == 0, capsys.readouterr().err
    assert command(["check", run, *on]) in (0, 1)  # after so few steps a check may fail
    images = tmp_path / "images"
    images.mkdir()
    for i, pixels in enumerate(np.load(tmp_path / "s.npy")[..., 0]):
        Image.fromarray(pixels).save(images / f"{i}.png")
    score = ["score", run, str(images), "--out", str(tmp_path / "s.csv"), *on]
    assert command(score) == 0, capsys.readouterr().err


@pytest.mark.skipif(not ON_GPU, reason="fills a GPU")
def test_a_full_gpu_is_one_line(tmp_path: Path, capsys: Out) -> None:
    free, _ = torch.cuda.mem_get_info()
    filled = torch.empty(max(1, free - 300 * 2**20), dtype=torch.uint8, device=DEVICE)
    argv = ["train", "photos", "--train.batch-size", "512", "--run-dir", str(tmp_path / "run")]
    assert command([*argv, "--device", "cuda", "--train.max-steps", "1"]) == 1
    assert "--train.batch-size" in capsys.readouterr().err
    del filled
