"""Latents that are standard normal on rows held out of the fit."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

import realnvp
from realnvp.sklearn import RealNVPRegressor
from realnvp.training.fit import last_of, recalibrate
from realnvp.training.loop import train
from tests.test_table import TINY, of, people, tensors, write_csv

LEVELS = torch.tensor([0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975], dtype=torch.float64)
NORMAL = torch.special.ndtri(LEVELS)


def rows(count: int, columns: int = 2) -> torch.Tensor:
    """Skewed, of heavy tails: sinh(1.3 asinh(z) + .3) of standard normal z."""
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((count, columns)))
    return 2 + 3 * torch.sinh(1.3 * torch.asinh(z) + 0.3)


def weights(flow: realnvp.Flow) -> torch.Tensor:
    last = last_of(flow)
    assert last is not None
    return torch.cat([*last.parameters()]).detach()


def test_latents_of_rows_held_out_become_normal() -> None:
    flow, x = realnvp.vector_flow(2, num_couplings=2, width=4), rows(20_000)
    assert not weights(flow).any()
    before = flow.log_prob(x).mean()
    recalibrate(flow, x[:10_000])
    with torch.no_grad():
        z = flow.encode(x[10_000:]).quantile(LEVELS, dim=0)
        assert flow.log_prob(x).mean() > before + 1
    assert (z - NORMAL[:, None]).abs().max() < 0.1


def test_few_rows_say_little() -> None:
    few = realnvp.vector_flow(2, num_couplings=2, width=4)
    recalibrate(few, torch.full((2, 2), 3.0, dtype=torch.float64))
    assert 0 < weights(few).abs().max() < 0.25
    none = realnvp.vector_flow(2, num_couplings=2, width=4)
    recalibrate(none, torch.empty(0, 2))
    assert not weights(none).any()


def test_regressions_are_calibrated_on_the_rows_held_out() -> None:
    """A large network learns 200 rows by heart; what it says of others then holds all the same."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (3000, 4))
    y = x[:, 0] + np.exp(x[:, 1]) * random.standard_normal(3000)
    model = RealNVPRegressor(
        width=32,
        num_blocks=1,
        max_iter=400,
        n_iter_no_change=400,
        batch_size=64,
        tol=0,
        validation_fraction=0.5,
        random_state=0,
    )
    flow = model.fit(x[:400], y[:400]).flow_
    assert weights(flow).any()
    low, high = model.predict_quantiles(x[400:], [0.1, 0.9]).T
    assert abs(np.mean((low <= y[400:]) & (y[400:] <= high)) - 0.8) < 0.06
    alone = RealNVPRegressor(width=4, num_blocks=1, max_iter=2, early_stopping=False)
    assert not weights(alone.fit(x[:50], y[:50]).flow_).any()


def test_a_run_calibrates_its_models_and_goes_on_without(tmp_path: Path) -> None:
    config = of(write_csv(tmp_path / "people.csv", people()))
    config = dataclasses.replace(config, model=dataclasses.replace(TINY.model))
    train(config, tmp_path / "run", device="cpu")
    assert weights(realnvp.load_flow(tmp_path / "run")).abs().min() > 0
    trained = tensors(tmp_path / "run")
    name = next(name for name in trained if name.endswith("log_tail"))
    assert not trained[name].any()
