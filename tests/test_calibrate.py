"""Recalibration: latents are standard normal on validation rows."""

from pathlib import Path

import numpy as np
import torch

import realnvp
from realnvp.cli.main import run
from realnvp.io.pretrained import newest_checkpoint
from realnvp.sklearn import RealNVPRegressor
from realnvp.training.fit import last_of, recalibrate

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


def conditional() -> realnvp.Flow:
    return realnvp.vector_flow(2, context=1, num_couplings=2, width=4)


def none(count: int) -> torch.Tensor:
    return torch.zeros(count, 1)


def test_latents_of_rows_held_out_become_normal() -> None:
    flow, x, c = conditional(), rows(20_000), none(10_000)
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


def test_regressions_are_calibrated_on_validation_rows() -> None:
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
    table = np.column_stack([rows(300), np.arange(300) % 7])
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
