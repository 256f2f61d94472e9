"""Rows in memory, fitted in seconds: what is kept, what is left alone, what is refused."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import realnvp
from realnvp.bijections import AffineCoupling, data_dependent_init
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, initialize_from
from realnvp.random import Purpose, generator

QUICK: dict[str, Any] = {"max_steps": 50, "lr": 1e-2}


def small(dim: int = 2, seed: int = 0) -> Flow:
    return realnvp.vector_flow(dim, num_couplings=4, width=16, num_blocks=1, seed=seed)


def curved(n: int = 400) -> Tensor:
    """Points around a parabola, far from 0 and of small deviation."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, dtype=torch.float64, generator=random)
    x[:, 1] = x[:, 0].square() + 0.3 * x[:, 1]
    return 1000 + 0.01 * x


def test_beats_the_gaussian_that_it_starts_from_on_rows_it_never_saw() -> None:
    x = curved(1200)
    flow = small()
    result = realnvp.fit(flow, x[:400], max_steps=100, lr=1e-2)
    with torch.no_grad():
        fitted = flow.log_prob(x[400:]).mean().item()
    gaussian = -sum((x[:400].std(0)).log()).item() - math.log(2 * math.pi) - 1
    assert not flow.training
    assert result.validation[0] == pytest.approx(gaussian, abs=0.5)
    assert fitted > gaussian + 0.5
    assert len(result.loss) == 100
    assert len(result.validation) == 5


def test_the_weights_kept_are_the_best_on_rows_held_out() -> None:
    x, flow = curved(60), small()
    result = realnvp.fit(flow, x, max_steps=200, lr=3e-2, noise=0.0, seed=4)
    held = generator(4, Purpose.TRAIN).permutation(60)[:6]
    with torch.no_grad():
        assert flow.log_prob(x[torch.from_numpy(held)]).mean().item() == max(result.validation)
    assert result.best_step == 25 * result.validation.index(max(result.validation))
    assert max(result.validation) > result.validation[-1]  # else this shows nothing


def test_without_rows_held_out_the_last_weights_are_kept() -> None:
    x, flow = curved(60), small()
    result = realnvp.fit(flow, x, max_steps=200, lr=3e-2, noise=0.0, val_fraction=0.0, patience=1)
    assert (result.best_step, len(result.loss), result.validation) == (200, 200, [])
    with torch.no_grad():
        assert -flow.log_prob(x).mean() < min(result.loss) + 0.5


def test_stops_when_rows_held_out_gain_nothing() -> None:
    result = realnvp.fit(
        small(),
        torch.randn(40, 2, generator=torch.Generator().manual_seed(0)),
        max_steps=400,
        patience=50,
    )
    assert len(result.loss) < 400
    assert len(result.loss) - result.best_step <= 50 + 25


def test_same_seed_same_weights_and_torchs_generator_is_left_alone() -> None:
    x = curved()
    first, again, other = small(), small(), small()
    realnvp.fit(first, x, **QUICK)
    torch.rand(3)
    state = torch.get_rng_state()
    realnvp.fit(again, x, **QUICK)
    assert torch.equal(state, torch.get_rng_state())
    realnvp.fit(other, x, **QUICK, seed=1)
    with torch.no_grad():
        assert torch.equal(first.log_prob(x), again.log_prob(x))
        assert not torch.equal(first.log_prob(x), other.log_prob(x))


@pytest.mark.parametrize("kind", ["rows", "images"])
def test_few_rows_go_through_the_networks_at_the_start(kind: str) -> None:
    """Time and memory of it do not grow with the data: all rows go through those layers alone that
    come first and look.
    """
    images = kind == "images"
    model = realnvp.ModelConfig("modern", num_scales=1, width=4, num_blocks=0, num_couplings=2)
    flow = (
        realnvp.build(realnvp.Config(data=realnvp.ImageData(shape=(1, 4, 4)), model=model))
        if images
        else small()
    )
    x = (
        255 * torch.rand(20_000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        if images
        else curved(5000)
    )
    seen: list[int] = []
    for module in flow.modules():
        if isinstance(module, AffineCoupling):
            module.net.register_forward_hook(
                lambda net, inputs, output: seen.append(len(inputs[0]))
            )
    initialize_from(flow, x)
    assert max(seen, default=0) == (16_384 if images else 0)
    started = copy.deepcopy(flow.state_dict())
    with data_dependent_init(flow), torch.no_grad():
        flow.log_prob(x[: max(seen, default=len(x))])
    assert all(
        torch.allclose(weight, started[name], atol=1e-6)
        for name, weight in flow.state_dict().items()
    )
    seen.clear()
    realnvp.fit(flow, x, max_steps=1, val_fraction=0.0)
    assert max(seen) == (16_384 if images else 256)


def test_a_fit_goes_on() -> None:
    x, flow = curved(), small()
    realnvp.fit(flow, x, **QUICK)
    with torch.no_grad():
        before = flow.log_prob(x)
    held = torch.from_numpy(generator(1, Purpose.TRAIN).permutation(len(x))[:40])
    result = realnvp.fit(flow, x, **QUICK, start=False, seed=1)
    assert result.validation[0] == before[held].mean().item()
    assert result.best_step > 0


def test_noise_bounds_what_repeated_columns_gain() -> None:
    """A column twice, or a constant, has no density: the noise, of .05 deviations, is all that the
    couplings can find.
    """
    column = torch.randn(300, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([column, column, torch.ones_like(column)], dim=1)
    flow = small(3)
    result = realnvp.fit(flow, x, max_steps=150, lr=1e-2, val_fraction=0.0)
    tied = 1 - 3 / (3 + 300)  # how much the noise of the columns correlates
    floor = 3 * math.log(math.sqrt(2 * math.pi * math.e) * 0.05) + 0.5 * math.log(
        1 - tied**2
    )  # the entropy of such noise
    assert math.isfinite(sum(result.loss))
    assert min(result.loss) > floor
    with torch.no_grad():
        assert flow.log_prob(x).isfinite().all()
        assert (flow.sample(50)[:, 2] - 1).abs().max() < 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_too(dtype: torch.dtype) -> None:
    flow = realnvp.build("digits")
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 17
    result = realnvp.fit(flow, x, max_steps=3, batch_size=10, noise=0.0)
    assert len(result.loss) == 3
    assert flow.log_prob(x).dtype == dtype


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_steps": 0}, "max_steps: "),
        ({"batch_size": 0}, "batch_size: "),
        ({"lr": 0.0}, "lr: "),
        ({"lr": math.nan}, "lr: "),
        ({"noise": -1.0}, "noise: "),
        ({"average": 1.0}, "average: "),
        ({"val_fraction": 1.0}, "held_out: "),
        ({"val_fraction": 0.99}, "held_out: no row of 10"),
        ({"patience": 0}, "patience: "),
        ({"tol": -1.0}, "tol: "),
        ({"max_steps": 1.5}, "max_steps: must be a whole number, got 1.5"),
        ({"batch_size": "8"}, "batch_size: must be a whole number, got '8'"),
        ({"lr": None}, "lr: must be a number, got None"),
        ({"val_fraction": "none"}, "held_out: must be a number, got 'none'"),
        ({"seed": -1}, "seed: must be between"),
        ({"x": torch.full((10, 2), math.inf)}, "x: must be finite"),
        ({"x": torch.zeros(10, 3)}, "expected a batch of shape"),
        ({"flow": torch.zeros(10, 2)}, r"flow: is Tensor; fit\(flow, x\) takes a Flow"),
    ],
)
def test_what_is_out_of_range_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        realnvp.fit(**({"flow": small(), "x": torch.zeros(10, 2)} | wrong))


@pytest.mark.parametrize("of", [float, np.float32, np.array, torch.tensor])
def test_numbers_are_taken_as_python_numpy_and_torch_have_them(of: Callable[[float], Any]) -> None:
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    counts = {"max_steps": 3.0, "batch_size": 8.0, "seed": 7.0, "patience": 500.0}
    values = counts | {"lr": 0.25, "noise": 0.5, "average": 0.5, "tol": 0.125, "val_fraction": 0.25}
    flow, same = small(), small()
    realnvp.fit(flow, x, **{name: of(value) for name, value in values.items()})
    realnvp.fit(same, x, **(values | {name: int(value) for name, value in counts.items()}))
    drawn = flow.sample(4, temperature=of(0.5), seed=of(7.0), first=of(2.0))
    assert torch.equal(drawn, same.sample(4, temperature=0.5, seed=7, first=2))


def test_slow_steps_are_told_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    realnvp.fit(small(), x, max_steps=3, verbose=True)
    assert len(capsys.readouterr().out.splitlines()) == 1
    monkeypatch.setattr("realnvp.training.fit.SAY_EVERY", -1.0)
    realnvp.fit(small(), x, max_steps=3, verbose=True)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_rows_of_any_order_in_memory_and_of_any_bytes() -> None:
    x = curved(60).numpy()
    wanted = realnvp.fit(small(), x[::-1].copy(), max_steps=3).loss
    for rows in (x[::-1], x[::-1].astype(">f8"), torch.from_numpy(x[::-1].copy()).requires_grad_()):
        assert realnvp.fit(small(), rows, max_steps=3).loss == wanted
    flow = small()
    assert torch.equal(log_probs(flow, x[:, ::-1]), log_probs(flow, x[:, ::-1].copy()))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_fits_where_gradients_are_off(context: Callable[[], Any], tmp_path: Path) -> None:
    wanted = realnvp.fit(small(), curved(60), max_steps=3).loss
    realnvp.save_flow(small(), tmp_path / "flow")
    with context():
        for flow in (small(), realnvp.load_flow(tmp_path / "flow")):
            assert realnvp.fit(flow, curved(60), max_steps=3).loss == wanted


def test_a_fit_that_is_broken_off_leaves_the_flow_in_eval_mode() -> None:
    flow = small()

    def stop(*_: object) -> None:
        if flow.training:
            raise KeyboardInterrupt

    flow.register_forward_pre_hook(stop)
    flow.bijection.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        realnvp.fit(flow, curved(60), max_steps=3)
    assert not flow.training


def test_numbers_of_numpy_are_numbers() -> None:
    flow = realnvp.vector_flow(np.int64(2), width=np.int64(8), sine_std=np.float32(2))
    assert flow.config == realnvp.vector_flow(2, width=8, sine_std=2.0).config
    assert flow.config
    assert type(flow.config.model.width) is int
