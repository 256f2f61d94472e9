"""Numbers that are not finite: the layer is named, steps are skipped whole; and data sets at the
edge of sense.
"""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_training import assert_bit_equal, with_train
from torch import Tensor

import realnvp.training.loop
from realnvp.config import Config, ImageData, ModelConfig
from realnvp.flows.build import build, vector_flow
from realnvp.flows.flow import Flow
from realnvp.io.pretrained import load_flow
from realnvp.moments import stored_moments
from realnvp.training.loop import train
from realnvp.training.run import Run
from realnvp.training.session import TrainingFailed
from realnvp.training.step import first_nonfinite

step_of_the_loop = realnvp.training.loop.train_step
NORM = "bijection.bijections.1.bijections.1"
NET = "bijection.bijections.1.bijections.2.net"


def poison(name: str, value: float) -> Callable[[Flow, Tensor], None]:
    """A fault: the first number of a weight or moment."""

    def fault(flow: Flow, x: Tensor) -> None:
        tensor = dict([*flow.named_parameters(), *flow.named_buffers()])[name]
        tensor.detach().view(-1)[0] = value

    return fault


def in_gradient(name: str) -> Callable[[Flow, Tensor], None]:
    """A fault: a layer is finite, its gradient is not."""

    def fault(flow: Flow, x: Tensor) -> None:
        flow.get_submodule(name).register_forward_hook(
            lambda module, inputs, output: output + (output * 0).abs().sqrt()
        )

    return fault


FAULTS: dict[str, tuple[Callable[[Flow, Tensor], Any], str]] = {
    "batch": (lambda flow, x: x.view(-1)[0].fill_(torch.nan), "the batch itself is not finite"),
    "beyond the logit": (
        lambda flow, x: x.view(-1)[0].fill_(1e3),
        "first non-finite layer bijection.bijections.0",
    ),
    "weight": (poison(f"{NET}.conv_in.bias", torch.nan), f"first non-finite layer {NET}.conv_in"),
    "infinite weight": (
        poison(f"{NET}.conv_in.bias", torch.inf),
        f"first non-finite layer {NET}.conv_in",
    ),
    "moment": (poison(f"{NORM}.moments.mean", torch.nan), f"first non-finite layer {NORM}.moments"),
    "gradient": (in_gradient(f"{NET}.conv_in"), f"first non-finite gradient {NET}.conv_in.bias"),
    "none": (lambda flow, x: None, "run again, the batch gives finite numbers"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_first_layer_is_named(tiny: Config, name: str) -> None:
    flow = build(
        dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, momentum=0.9))
    ).train()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 17
    fault, words = FAULTS[name]
    fault(flow, x)
    before = [(mean, var) for _, mean, var in stored_moments(flow)]
    assert first_nonfinite(flow, x, l2=5e-5) == words
    after = [(mean, var) for _, mean, var in stored_moments(flow)]
    assert all(
        a is b
        for old, new in zip(before, after, strict=True)
        for a, b in zip(old, new, strict=True)
    )
    assert all(parameter.grad is None for parameter in flow.parameters())


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.0, "run again"), (torch.nan, "the batch itself"), (1e200, "first non-finite layer")],
)
def test_of_a_table_whose_standardisation_is_not_trained(value: float, words: str) -> None:
    flow = vector_flow(3, width=4).double().train()
    assert first_nonfinite(flow, torch.full((4, 3), value, dtype=torch.float64), l2=0.0).startswith(
        words
    )
    assert not any(module._forward_hooks for module in flow.modules())


def at_step(
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    act: Callable[[Run], None],
    after: Callable[[Run], None] = lambda run: None,
) -> None:
    def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
        if run.state.step != step:
            return step_of_the_loop(run, x)
        act(run)
        result = step_of_the_loop(run, x)
        after(run)
        return result

    monkeypatch.setattr(realnvp.training.loop, "train_step", train_step)


def ruin_adam(run: Run) -> None:
    next(iter(run.optimizers[0].state.values()))["exp_avg"].fill_(torch.nan)


def ruin_moments(run: Run) -> None:
    stored_moments(run.flow)[0][0].mean.fill_(torch.nan)


@pytest.mark.parametrize("ruin", [ruin_adam, ruin_moments])
def test_what_no_skipped_step_repairs_ends_the_training_with_a_report(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ruin: Callable[[Run], None]
) -> None:
    at_step(monkeypatch, 5, ruin)
    config = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, momentum=0.9))
    with pytest.raises(
        TrainingFailed,
        match=r"step 2[45]: loss nan.*first non-finite layer bijection\S+,.*images \[\d",
    ):
        train(with_train(config, max_steps=60, tracker="none"), tmp_path / "run", device="cpu")


def test_a_gradient_that_is_not_finite_changes_nothing(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with one bad gradient, of a finite loss, is the run without that batch."""
    hooks: list[Any] = []

    def infect(run: Run) -> None:
        parameter = next(run.flow.parameters())
        hooks.append(parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf)))

    at_step(monkeypatch, 5, infect, after=lambda run: hooks.pop().remove())
    assert train(tiny, tmp_path / "infected", device="cpu").skipped == 1

    def without(run: Run, x: Tensor) -> tuple[float, float, int]:
        return (float("nan"), 0.0, 0) if run.state.step == 5 else step_of_the_loop(run, x)

    monkeypatch.setattr(realnvp.training.loop, "train_step", without)
    train(tiny, tmp_path / "without", device="cpu")
    assert_bit_equal(tmp_path / "infected", tmp_path / "without")


@pytest.mark.parametrize("factor", [1e3, 1e6])
def test_a_learning_rate_far_too_high(tiny: Config, tmp_path: Path, factor: float) -> None:
    """It ends with finite weights, or with a report that names step, images and layer."""
    config = with_train(
        tiny,
        max_steps=30,
        eval_every=30,
        save_every=30,
        lr=tiny.train.lr * factor,
        grad_clip=1e4,
        tracker="none",
    )
    try:
        train(config, tmp_path / "run", device="cpu")
    except TrainingFailed as failed:
        assert factor == 1e6
        assert "first non-finite layer bijection." in str(failed)  # noqa: PT017
    else:
        assert factor == 1e3
        assert all(
            parameter.isfinite().all()
            for parameter in load_flow(tmp_path / "run", which="last").parameters()
        )


SETS: dict[str, tuple[tuple[int, ...], int, int | None, str]] = {
    "constant": ((20, 8, 8, 1), 256, None, "constant"),
    "constant, colour": ((20, 4, 4, 3), 256, 2, "constant"),
    "one training image": ((1, 8, 8, 1), 256, None, "random"),
    "2 x 2": ((20, 2, 2, 1), 256, None, "random"),
    "2 x 2, two scales": ((20, 2, 2, 1), 256, 2, "random"),
    "one image of one colour, of 2 x 2, two scales": ((1, 2, 2, 1), 256, 2, "constant"),
    "two levels": ((20, 8, 8, 1), 2, None, "random"),
}


@pytest.mark.parametrize("name", SETS)
def test_data_at_the_edge_of_sense(tmp_path: Path, tiny: Config, name: str) -> None:
    """They train, and what comes out is an exact density of such images; or the training tells
    that it is none.
    """
    shape, levels, num_scales, kind = SETS[name]
    random = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        images = (
            random.integers(levels, size=shape) if kind == "random" else np.full(shape, levels - 1)
        )
        np.save(tmp_path / "data" / f"{split}.npy", images.astype(np.uint8))
    model = ModelConfig(num_scales=num_scales, width=4, num_blocks=1)
    config = dataclasses.replace(
        tiny,
        name="images",
        data=ImageData(source=str(tmp_path / "data"), levels=levels),
        model=model,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = train(
            with_train(config, batch_size=min(8, shape[0]), tracker="none"),
            tmp_path / "run",
            device="cpu",
        )
    assert (state.step, state.skipped) == (12, 0)
    flow = load_flow(tmp_path / "run", which="last")
    assert all(parameter.isfinite().all() for parameter in flow.parameters())
    told = [
        str(warning.message)
        for warning in caught
        if "no finite log-density" in str(warning.message)
    ]
    assert bool(told) == (state.best is None), told
    # Moments of 2 x 2 equal pixels have no variance: any other image is as good as impossible.
    assert (state.best is None or state.best > 1e6) == (
        name == "one image of one colour, of 2 x 2, two scales"
    )
    if state.best is None or state.best > 1e6:
        return
    images = np.load(tmp_path / "data" / "test.npy").transpose(0, 3, 1, 2)
    x = torch.from_numpy(images.copy()).double() + 0.5
    with torch.no_grad():
        assert (flow.double().decode(flow.encode(x)) - x).abs().max() < 1e-6
        assert flow.log_prob(x).isfinite().all()
