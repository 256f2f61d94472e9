"""realnvp.fit: rows in memory; recalibration: latents are standard normal on validation rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import realnvp
from realnvp.cli.main import run
from realnvp.flows.flow import Flow
from realnvp.io.pretrained import newest_checkpoint
from realnvp.sklearn import RealNVPRegressor
from realnvp.training.fit import last_of, recalibrate

QUICK: dict[str, Any] = {"max_steps": 50, "batch_size": 64, "lr": 1e-2}


def rows(count: int = 400, seed: int = 0) -> Tensor:
    """A banana."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.stack([x[:, 0], 0.5 * x[:, 1] + x[:, 0].square()], dim=1)


def small(**options: Any) -> Flow:
    return realnvp.vector_flow(2, width=8, num_couplings=2, **options)


def same(a: Flow, b: Flow) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[name], other[name]) for name in mine)


def test_learns_better_than_a_gaussian() -> None:
    flow, x = small(), rows(1000)
    result = realnvp.fit(flow, x[:800], max_steps=300, batch_size=128, lr=1e-2)
    gaussian = torch.distributions.MultivariateNormal(x[:800].mean(0), x[:800].T.cov())
    assert flow.log_prob(x[800:]).mean() > gaussian.log_prob(x[800:]).mean() + 0.2
    assert not flow.training
    assert len(result.loss) == 300


def test_the_weights_kept_are_the_best_on_validation() -> None:
    flow = small()
    result = realnvp.fit(flow, rows(), **QUICK)
    checked = [0, 25, 50]
    assert len(result.validation) == len(checked)
    assert result.best_step == checked[int(np.argmax(result.validation))]


def test_without_validation_the_last_weights_are_kept() -> None:
    result = realnvp.fit(small(), rows(), **QUICK, val_fraction=0)
    assert (result.validation, result.best_step) == ([], 50)


def test_patience_ends_a_fit() -> None:
    result = realnvp.fit(small(), rows(), max_steps=1000, patience=50, tol=100.0)
    assert len(result.loss) == 50


def test_a_seed_gives_the_same_weights_and_leaves_torch_alone() -> None:
    state = torch.get_rng_state()
    flows = [small(), small(), small()]
    for flow, seed in zip(flows, (0, 0, 1), strict=True):
        realnvp.fit(flow, rows(), **QUICK, seed=seed)
    assert same(flows[0], flows[1])
    assert not same(flows[0], flows[2])
    assert torch.equal(state, torch.get_rng_state())


def test_arrays_datasets_and_loaders_are_the_same_rows() -> None:
    x, flows = rows(), [small() for _ in range(4)]
    data = TensorDataset(x)
    for flow, each in zip(flows, (x, x.numpy(), data, DataLoader(data, 7)), strict=True):
        realnvp.fit(flow, each, **QUICK)
    assert all(same(flow, flows[0]) for flow in flows)


def test_pairs_of_a_dataset_are_x_and_context() -> None:
    x, c = rows(), torch.randn(400, 1, generator=torch.Generator().manual_seed(1))
    flows = [small(context=1) for _ in range(2)]
    realnvp.fit(flows[0], x, context=c, **QUICK)
    realnvp.fit(flows[1], TensorDataset(x, c), **QUICK)
    assert same(*flows)


def test_a_fit_continues_where_another_ended() -> None:
    flow = small()
    first = realnvp.fit(flow, rows(), max_steps=100, lr=1e-2)
    again = realnvp.fit(flow, rows(), **QUICK, initialize=False)
    assert again.validation[0] == pytest.approx(max(first.validation), abs=1e-3)


def test_inside_inference_mode() -> None:
    flow = small()
    with torch.inference_mode():
        realnvp.fit(flow, rows(), **QUICK)
    assert flow.log_prob(rows(5)).requires_grad


@pytest.mark.parametrize(
    ("x", "options", "name"),
    [
        (rows() * torch.nan, {}, "x"),
        (rows().double() * 1e300, {}, "x"),
        (rows(10), {"val_fraction": 0.99}, "val_fraction"),
    ],
)
def test_rows_that_cannot_be_fitted(x: Tensor, options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        realnvp.fit(small(), x, **options)


def test_gray_levels_need_noise() -> None:
    flow = realnvp.load_flow("digits-8")
    v = torch.randint(0, 17, (20, 1, 8, 8))
    with pytest.raises(ValueError, match="x: "):
        realnvp.fit(flow, v)
    result = realnvp.fit(flow, v + torch.rand(v.shape), max_steps=2, initialize=False)
    assert np.isfinite(result.loss).all()


LEVELS = torch.tensor([0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975], dtype=torch.float64)
NORMAL = torch.special.ndtri(LEVELS)


def skewed(count: int, columns: int = 2) -> torch.Tensor:
    """Skewed, of heavy tails: sinh(1.3 asinh(z) + .3) of standard normal z."""
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((count, columns)))
    return 2 + 3 * torch.sinh(1.3 * torch.asinh(z) + 0.3)


def weights(flow: realnvp.Flow) -> torch.Tensor:
    last = last_of(flow)
    assert last is not None
    return torch.cat([*last.parameters()]).detach()


def conditional() -> realnvp.Flow:
    return realnvp.vector_flow(2, context=1, num_couplings=2, width=4)


def none(count: int) -> torch.Tensor:
    return torch.zeros(count, 1)


def test_latents_of_rows_held_out_become_normal() -> None:
    flow, x, c = conditional(), skewed(20_000), none(10_000)
    assert not weights(flow).any()
    before = flow.log_prob(x[10_000:], c).mean()
    recalibrate(flow, x[:10_000], c)
    with torch.no_grad():
        z = flow.encode(x[10_000:], c).quantile(LEVELS, dim=0)
        assert flow.log_prob(x[10_000:], c).mean() > before + 1
    assert (z - NORMAL[:, None]).abs().max() < 0.1


def test_few_rows_change_little() -> None:
    few = conditional()
    recalibrate(few, torch.full((2, 2), 3.0, dtype=torch.float64), none(2))
    assert 0 < weights(few).abs().max() < 0.25
    without = conditional()
    recalibrate(without, torch.empty(0, 2), none(0))
    assert not weights(without).any()


def test_regressions_are_calibrated_on_validation_skewed() -> None:
    """A network that overfits 200 rows still has calibrated intervals."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (3000, 4))
    y = x[:, 0] + np.exp(x[:, 1]) * random.standard_normal(3000)
    how = {"max_iter": 400, "n_iter_no_change": 400, "batch_size": 64, "tol": 0}
    model = RealNVPRegressor(width=32, num_blocks=1, validation_fraction=0.5, random_state=0, **how)
    flow = model.fit(x[:400], y[:400]).flow_
    assert weights(flow).any()
    low, high = model.predict_quantiles(x[400:], [0.1, 0.9]).T
    assert abs(np.mean((low <= y[400:]) & (y[400:] <= high)) - 0.8) < 0.06
    alone = RealNVPRegressor(width=4, num_blocks=1, max_iter=2, early_stopping=False)
    assert not weights(alone.fit(x[:50], y[:50]).flow_).any()


def test_a_run_recalibrates_its_models_and_not_its_checkpoints(tmp_path: Path) -> None:
    table = np.column_stack([skewed(300), np.arange(300) % 7])
    source = tmp_path / "rows.csv"
    np.savetxt(source, table, delimiter=",", header="x,y,c", comments="")
    command = ["train", "table", "--data.source", str(source), "--data.context-columns", "c"]
    command += ["--model.num-couplings", "2", "--model.width", "4", "--train.max-steps", "4"]
    command += ["--train.eval-every", "2", "--train.batch-size", "32", "--train.tracker", "none"]
    assert run([*command, "--run-dir", str(tmp_path / "run")]) == 0
    assert weights(realnvp.load_flow(tmp_path / "run")).abs().min() > 0
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    name = next(name for name in newest[0] if name.endswith("log_tail"))
    assert not newest[0][name].any()
