"""A step with numbers that are not finite changes nothing; repeated, it ends the training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import realnvp.training.loop
from realnvp.config import Config
from realnvp.io.pretrained import newest_checkpoint
from realnvp.training.batches import Batches
from realnvp.training.loop import train
from realnvp.training.run import Run
from realnvp.training.session import TrainingFailed

step_of_the_loop = realnvp.training.loop.train_step


@pytest.mark.parametrize("poison", [torch.nan, 1e3])
def test_a_step_that_is_not_finite_changes_nothing(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: float
) -> None:
    """A run with one bad batch is the run without it: weights, Adam's state and moments.

    NaN, or pixels of density 0, whose loss is infinite while batch norm sees finite numbers.
    """

    def poisoned(run: Run, x: Tensor) -> tuple[float, float, int]:
        return step_of_the_loop(run, x.where(torch.tensor(run.state.step != 5), poison))

    def without(run: Run, x: Tensor) -> tuple[float, float, int]:
        if run.state.step != 5:
            return step_of_the_loop(run, x)
        run.state.skipped += 1
        return float("nan"), 0.0, 0

    found = []
    for name, train_step in (("poisoned", poisoned), ("without", without)):
        monkeypatch.setattr(realnvp.training.loop, "train_step", train_step)
        assert train(tiny, tmp_path / name, device="cpu").skipped == 1
        newest = newest_checkpoint(tmp_path / name)
        assert newest is not None
        found.append(newest[0])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert all(tensor.isfinite().all() for tensor in found[0].values())


def test_repeated_failures_end_the_training(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names step and batch."""
    at = Batches.at
    monkeypatch.setattr(Batches, "at", lambda *args, **kwargs: at(*args, **kwargs) * torch.nan)
    config = replace(tiny, train=replace(tiny.train, max_steps=40, eval_every=40))
    with pytest.raises(TrainingFailed, match=r"step 19.*\[\d+"):
        train(config, tmp_path / "run", device="cpu")
