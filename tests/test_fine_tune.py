"""A training that starts with the weights of another flow."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realnvp.cli.main import run
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.flows.build import build
from realnvp.flows.flow import Flow
from realnvp.io.pretrained import load_flow, save_flow
from realnvp.io.run_dir import RunDir
from realnvp.training.loop import train
from realnvp.training.run import take_weights
from tests.flows import shaken

SHORT = ["--train.tracker", "none", "--train.eval-images", "8", "--train.moment-batches", "2"]
SHORT += ["--train.batch-size", "8", "--device", "cpu", "--train.lr", "1e-12"]
MODEL = ModelConfig("modern", num_scales=1, width=6, num_blocks=1, num_couplings=2)


def moved(config: Config) -> Flow:
    """A flow away from its start."""
    return shaken(build(config), 0.01)


def config_of(**model: Any) -> Config:
    classes = model.pop("classes", None)
    data = ImageData(shape=(3, 8, 8), classes=classes is not None, class_names=classes)
    dim = len(classes or ())
    return Config("images-modern", data, replace(MODEL, context_dim=dim, **model))


def pictures(path: Path, *shape: int) -> Path:
    np.save(path, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return path


def test_the_command_takes_model_and_weights(tmp_path: Path) -> None:
    """The images may have another size; the same command goes on."""
    flow = moved(config_of())
    save_flow(flow, tmp_path / "flow.safetensors")
    source = pictures(tmp_path / "x.npy", 40, 16, 12, 3)
    command = ["train", "images-modern", "--data.source", str(source), *SHORT]
    command += ["--train.muon-lr", "1e-12", "--run-dir", str(tmp_path / "run")]
    command += ["--init-from", str(tmp_path / "flow.safetensors")]
    assert run([*command, "--train.max-steps", "1"]) == 0
    assert run([*command, "--train.max-steps", "2"]) == 0
    tuned = load_flow(tmp_path / "run", "last")
    assert tuned.config is not None
    assert tuned.config.model == flow.config.model  # type: ignore[union-attr]
    assert tuned.config.data.shape == (3, 16, 12)
    for name, weight in flow.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], weight, atol=1e-6, rtol=0)
    assert RunDir(tmp_path / "run").sessions[0].init_from == str(tmp_path / "flow.safetensors")


def test_another_model_or_data_are_refused(tiny: Config, run_dir: Path, tmp_path: Path) -> None:
    wider = replace(tiny, model=replace(tiny.model, width=9))
    with pytest.raises(ValueError, match=r"model\.width"):
        train(wider, tmp_path / "run", device="cpu", init_from=run_dir)
    color = moved(config_of())
    save_flow(color, tmp_path / "color.safetensors")
    with pytest.raises(ValueError, match=r"color\.safetensors"):
        train(tiny, tmp_path / "run", device="cpu", init_from=tmp_path / "color.safetensors")


def test_a_conditional_flow_starts_as_the_flow_without_a_condition() -> None:
    start, flow = moved(config_of()), build(config_of(classes=("a", "b"))).eval()
    take_weights(flow, start, "start")
    x = 256 * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    context = torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(flow.log_prob(x, context), start.log_prob(x))
    with pytest.raises(ValueError, match=r"model\.context_dim"):
        take_weights(build(config_of()), flow, "flow")


def test_learned_noise_starts_as_uniform_noise() -> None:
    start, flow = moved(config_of()), build(config_of(dequantization="learned")).eval()
    take_weights(flow, start, "start")
    x = 256 * torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noise, *others = flow.bijection.bijections
    _, log_det = noise(x)
    assert torch.allclose(log_det, torch.zeros(5), atol=1e-5)
    rest = list(start.bijection.bijections)
    for layer, expected in zip(others, rest, strict=True):
        for name, weight in expected.state_dict().items():
            assert torch.equal(layer.state_dict()[name], weight)
    with pytest.raises(ValueError, match=r"model\.dequantization"):
        take_weights(start, flow, "flow")
