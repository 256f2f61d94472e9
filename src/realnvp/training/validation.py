"""Evaluations during a training: bits/dim (of a table nats) on validation data, and samples."""

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from realnvp.bijections.base import float64_like
from realnvp.config.fields import ImageData, TableData
from realnvp.data.dataset import channels_first, to_pixels
from realnvp.device import as_tensor
from realnvp.evaluation.likelihood import Mean, log_probs, summarize
from realnvp.figures import side_by_side
from realnvp.flows.context import Classes
from realnvp.flows.flow import ROWS, batch_that_fits, evaluating
from realnvp.io.pretrained import save_flow
from realnvp.moments import averaging, restore_moments, stored_moments
from realnvp.progress import track, track_slices
from realnvp.random import Purpose
from realnvp.training.fit import last_of, recalibrate
from realnvp.training.run import Run

GRID = 36  # images of a grid of samples


def evaluate(run: Run) -> dict[str, float]:
    """Evaluate the flow on validation data, and write the last and the best model.

    Returns the mean, in the run's unit, and its standard error, by their names in metrics.jsonl.
    Batch norm's moments are re-estimated over training batches for this, and latents recalibrated
    on the validation rows; then both are put back.
    TrainingStopped: a signal came before there was a result, and nothing has changed.
    """
    flow, before, last = run.flow, stored_moments(run.flow), last_of(run.flow)
    calibration = last and copy.deepcopy(last.state_dict())
    try:
        if before:
            with averaging(flow), torch.no_grad():
                for step in track(range(run.config.train.moment_batches), "batch norm's moments"):
                    run.heed_signals()
                    x = run.batches.at(step, Purpose.MOMENTS)
                    flow.log_prob(x, *run.batches.condition_on([step]))
        # Evenly spread.
        count = len(run.splits.validation)
        chosen = np.linspace(0, count - 1, min(count, run.config.train.eval_images)).astype(int)
        labels = (run.splits.labels or {}).get("validation")
        context = None if labels is None else labels[chosen]
        if last is not None:
            rows = as_tensor(run.splits.validation[chosen])
            recalibrate(flow, rows.to(float64_like(flow)), context)
        return _keep_if_better(run, validate(run, chosen, context))
    finally:
        restore_moments(before)
        if last is not None and calibration:
            last.load_state_dict(calibration)


def validate(run: Run, chosen: NDArray[np.intp], context: NDArray[Any] | None) -> Mean:
    """Mean and error of validation images (rows) in the run's unit, spread over the processes."""
    shape, processes = run.splits.shape, run.processes
    nats = torch.zeros(len(chosen), dtype=torch.float64, device=processes.device)
    size = min(64, batch_that_fits(shape)) if isinstance(run.config.data, ImageData) else ROWS
    for part in track_slices(len(chosen), size * processes.count, "validation"):
        run.heed_signals()
        mine = np.arange(part.start, part.stop)[processes.rank :: processes.count]
        if len(mine):
            nats[mine] = log_probs(
                run.flow,
                channels_first(run.splits.validation[chosen[mine]]),
                context=None if context is None else context[mine],
                seed=run.config.seed,
                indices=chosen[mine].tolist(),
                on_device=True,
            ).to(nats)
    total, groups = processes.gather(nats).sum(0).cpu(), run.splits.groups_of("validation")
    return summarize(run.unit.of(total, shape), groups and np.array(groups)[chosen])


def _keep_if_better(run: Run, result: Mean) -> dict[str, float]:
    """Write the last model, and the best; returns the result by its names in metrics.jsonl."""
    state, unit = run.state, run.unit
    measured = {
        f"validation_{unit.key}": result.mean,
        "validation_standard_error": result.standard_error,
    }
    better = math.isfinite(result.mean) and (
        state.best is None or unit.sign * result.mean > unit.sign * state.best
    )
    state.evaluations_since_best = 0 if better else state.evaluations_since_best + 1
    if better:
        state.best, state.best_step = result.mean, state.step
    if run.main:
        for which in ["last", "best"] if better else ["last"]:
            path = run.files.models / f"{which}.safetensors"
            save_flow(run.flow, path, facts={"step": state.step, **measured})
    return measured


def write_samples(run: Run) -> None:
    """Write a grid of images beside samples, from the same z each time. Of a table: nothing."""
    if not run.main or isinstance(run.config.data, TableData):
        return
    condition, classes = run.flow.condition, None
    if isinstance(condition, Classes):
        classes = [i % len(condition.names) for i in range(GRID)]
    with evaluating(run.flow):
        samples = run.flow.sample(GRID, context=classes, seed=run.config.seed)
    panels = {
        "data": np.asarray(run.splits.validation[:GRID]),
        "samples": to_pixels(samples, levels=run.config.levels),
    }
    path = run.files.samples / f"step-{run.state.step:09d}.png"
    side_by_side(path, panels, levels=run.config.levels)
