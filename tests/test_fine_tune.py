"""A training that starts with the weights of another flow: one command, whatever the flow."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from realnvp import ImageData, ModelConfig, TrainConfig, load_flow, save_flow
from realnvp.bijections import Chain
from realnvp.cli.main import run
from realnvp.config import Config
from realnvp.flows.build import build
from realnvp.training.fine_tune import take_weights
from realnvp.training.loop import train

SHORT = ["--train.tracker", "none", "--train.eval-images", "8", "--train.moment-batches", "2"]
SHORT += ["--train.batch-size", "8", "--device", "cpu"]


def images(path: Path, *shape: int, seed: int = 0) -> Path:
    np.save(path, np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
    return path


def command(preset: str, source: Path, run_dir: Path, *flags: object, steps: int = 1) -> list[str]:
    named: Sequence[object] = (*("--data.source", source), *("--run-dir", run_dir), *flags)
    return ["train", preset, *map(str, named), *SHORT, "--train.max-steps", str(steps)]


@pytest.fixture(scope="module")
def color(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved modern flow of colour images of 8x8, with learned noise and drawn weights."""
    model = ModelConfig(
        "modern", num_scales=1, width=6, num_blocks=1, num_couplings=2, dequantization="variational"
    )
    flow = build(Config("images-modern", ImageData(shape=(3, 8, 8)), model))
    with torch.no_grad():
        for i, weight in enumerate(flow.parameters()):
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    folder = tmp_path_factory.mktemp("flows") / "colour"
    save_flow(flow.eval(), folder)
    return folder


def test_the_model_is_taken_over_and_images_may_have_another_size(
    color: Path, tmp_path: Path
) -> None:
    source = images(tmp_path / "x.npy", 40, 16, 12, 3)
    rates = ["--train.lr", "1e-12", "--train.muon-lr", "1e-12", "--train.warmup", "0"]
    assert run(command("images-modern", source, tmp_path / "r", "--init-from", color, *rates)) == 0
    context, tuned = load_flow(color), load_flow(tmp_path / "r")
    assert context.config is not None
    assert tuned.config is not None
    assert tuned.config.model == context.config.model
    assert tuned.shape == (3, 16, 12)
    for name, weight in context.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], weight, atol=1e-6, rtol=0)


def test_a_run_remembers_what_it_started_with(
    color: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command goes on, with --init-from and without, and after the flow is gone."""
    source, context = images(tmp_path / "x.npy", 40, 8, 8, 3), tmp_path / "given"
    shutil.copytree(color, context)
    start = ("images-modern", source, tmp_path / "r")
    assert run(command(*start, "--init-from", context)) == 0
    (first,) = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert first["init_from"] == str(context)
    shutil.rmtree(context)
    capsys.readouterr()
    assert run(command(*start, "--init-from", context, steps=2)) == 0
    assert run(command(*start, steps=3)) == 0
    said = capsys.readouterr()
    assert "warning" not in said.err
    assert "step 3" in said.out
    assert run(command(*start, "--model.width", "7", steps=4)) == 2
    assert f"--model.width: 7, but {context} has 6" in capsys.readouterr().err


def test_flags_that_agree_are_taken(color: Path, tmp_path: Path) -> None:
    source = images(tmp_path / "x.npy", 40, 8, 8, 3)
    start = command("images-modern", source, tmp_path / "r", "--init-from", color)
    assert run([*start, "--model.width", "6", "--print-config"]) == 0


def test_a_table_goes_on_as_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The flow keeps how it standardised the first table. Other names of columns are told."""
    for seed, names in enumerate(("a,b", "a,c")):
        rows = np.random.default_rng(seed).normal(seed, 1 + seed, (60, 2))
        np.savetxt(tmp_path / f"{seed}.csv", rows, delimiter=",", header=names, comments="")
    small = ["--model.width", "4", "--model.num-couplings", "2"]
    assert run(command("table", tmp_path / "0.csv", tmp_path / "first", *small)) == 0
    capsys.readouterr()
    second = command("table", tmp_path / "1.csv", tmp_path / "r", "--init-from", tmp_path / "first")
    assert run([*second, "--train.lr", "1e-12"]) == 0
    assert "was trained on columns a, b, these are a, c" in capsys.readouterr().err
    first, tuned = load_flow(tmp_path / "first"), load_flow(tmp_path / "r")
    for name, weight in first.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("preset", "shape", "words"),
    [
        ("images-modern", (40, 8, 8), "its data are of shape (3, 8, 8), these of (1, 8, 8)"),
        ("table", (40, 2), "is a flow of images, table is for table"),
    ],
)
def test_flows_of_other_data_are_refused(
    preset: str,
    shape: tuple[int, ...],
    words: str,
    color: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = images(tmp_path / "x.npy", *shape)
    assert run(command(preset, source, tmp_path / "r", "--init-from", color)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "r" / "config.json").exists()


def test_a_recipe_that_cannot_train_the_architecture_names_one_that_can(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["train", "digits-modern", "--init-from", str(run_dir)]
    assert run([*start, "--run-dir", str(tmp_path / "r")]) == 2
    assert "architecture paper, which digits-modern does not train; take the preset digits" in (
        capsys.readouterr().err
    )


def test_in_python_both_values_are_named(tiny: Config, run_dir: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(
        tiny, model=dataclasses.replace(tiny.model, num_blocks=2), train=TrainConfig(max_steps=1)
    )
    with pytest.raises(ValueError, match=r"model\.num_blocks is 1 there, 2 here"):
        train(other, tmp_path / "r", device="cpu", init_from=run_dir)


def test_a_conditional_flow_starts_as_the_flow_without_a_condition() -> None:
    """The weights that see the condition start at zero, and stay so."""
    data = ImageData(shape=(3, 8, 8))
    model = ModelConfig("modern", num_scales=1, width=6, num_blocks=1, num_couplings=2)
    plain = Config("images-modern", data, model)
    classes = dataclasses.replace(data, classes=True, class_names=("a", "b"))
    conditional = Config("images-modern", classes, dataclasses.replace(model, context=2))
    start = build(plain).eval()
    with torch.no_grad():
        for i, weight in enumerate(start.parameters()):
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    x = 256 * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    flow = build(conditional).eval()
    take_weights(flow, start, "start")
    context = torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(flow.log_prob(x, context=context), start.log_prob(x))
    with pytest.raises(ValueError, match=r"model\.given is 2 there, 0 here"):
        take_weights(build(plain), flow, "flow")


@pytest.mark.parametrize("given", [0, 2])
@pytest.mark.parametrize(
    ("before", "after"),
    [("uniform", "variational"), ("uniform", "autoregressive"), ("variational", "autoregressive")],
)
def test_learned_noise_begins_with_the_same_density(before: str, after: str, context: int) -> None:
    model = ModelConfig(
        "modern", num_scales=1, width=6, num_blocks=1, num_couplings=2, context=context
    )
    names = tuple("ab"[:context]) or None
    start, flow = (
        build(
            Config(
                data=ImageData(shape=(3, 8, 8), classes=context > 0, class_names=names),
                model=dataclasses.replace(model, dequantization=d),
            )
        ).eval()
        for d in (before, after)
    )
    with torch.no_grad():
        for i, weight in enumerate(start.parameters()):
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    take_weights(flow, start, "start")
    c = "b" if context else None
    x = 256 * torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.log_prob(x, c), start.log_prob(x, c))
    with pytest.raises(ValueError, match=f"model.dequantization is {after} there, {before} here"):
        take_weights(start, flow, "flow")


def test_noise_in_oblique_cells_begins_as_uniform_noise() -> None:
    model = ModelConfig("modern", num_scales=1, width=6, num_blocks=1, num_couplings=2)
    start, flow = (
        build(
            Config(
                data=ImageData(shape=(3, 8, 8)), model=dataclasses.replace(model, dequantization=d)
            )
        ).eval()
        for d in ("autoregressive", "oblique")
    )
    with torch.no_grad():
        for i, weight in enumerate(start.parameters()):
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    take_weights(flow, start, "start")
    x = 256 * torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noise, *others = flow.bijection.bijections
    z, log_det = noise(x)
    assert torch.allclose(log_det, torch.zeros(5), atol=1e-5)
    rest = Chain(start.bijection.bijections[1:])
    for found, expected in zip(Chain(others)(z), rest(z), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"dequantization is oblique there, autoregressive here"):
        take_weights(start, flow, "flow")


def test_a_training_begins_to_learn_noise_where_asked(
    color: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, flag = images(tmp_path / "x.npy", 40, 8, 8, 3), "--model.dequantization"
    begin = ("images-modern", source, tmp_path / "r", "--init-from", color)
    assert run(command(*begin, flag, "autoregressive")) == 0
    assert load_flow(tmp_path / "r").config.model.dequantization == "autoregressive"
    assert run(command(*begin, steps=2)) == 0  # goes on
    assert run(command(*begin[:2], tmp_path / "q", *begin[3:], flag, "uniform")) != 0
    assert "leave --model.dequantization out" in capsys.readouterr().err
