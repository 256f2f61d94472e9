"""How a training looks at itself: bits/dim (of a table nats) on validation, and samples."""

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from realnvp.bijections.base import float64_like
from realnvp.config import Kind
from realnvp.config.errors import count_of
from realnvp.data import channels_first, to_pixels
from realnvp.device import as_tensor
from realnvp.evaluation.likelihood import Summary, log_probs, summarise
from realnvp.figures import data_beside_samples
from realnvp.flows.context import Classes
from realnvp.flows.flow import ROWS, Flow, batch_that_fits, evaluating
from realnvp.io.pretrained import save_flow
from realnvp.moments import averaging, restore_moments, stored_moments
from realnvp.progress import chunks
from realnvp.random import Purpose
from realnvp.training.fit import calibrate, last_of
from realnvp.training.run import Run
from realnvp.training.session import TrainingStopped

GRID = 36  # images of a grid of samples
SECONDS_TO_STOP = 5  # that re-estimating moments may take when the training is asked to stop


def evaluate(run: Run) -> dict[str, float]:
    """Evaluate the flow on validation data, and write the last and the best model.

    Returns the mean, in the run's unit, and its standard error, by their names in metrics.jsonl.
    Batch norm's moments are re-estimated over training batches for this, and latents calibrated on
    the validation rows; then both are put back.
    TrainingStopped: a signal came before there was a result. The last model is written as it is,
    and nothing else has changed.
    """
    with _estimates_put_back(run):
        try:
            _average_moments(run, run.config.train.moment_batches)
            _calibrate(run)
            result = validate(run)
        except TrainingStopped:
            _write_model(run, "last", {})
            raise
        return _keep_if_better(run, result)


def keep_unevaluated(run: Run) -> None:
    """Write the last model of a training that was asked to stop, so that it can be used.

    Batch norm's moments are re-estimated over as many batches as take about five seconds.
    """
    # A step is a forward pass and its gradient, which takes twice as long. 0: none has been timed.
    forward = run.state.training_seconds / max(run.state.step, 1) / 3
    affordable = max(1, int(SECONDS_TO_STOP / forward)) if forward else 1
    with run.average.used(), _estimates_put_back(run):
        _average_moments(run, min(affordable, run.config.train.moment_batches), to_the_end=True)
        _calibrate(run)
        _write_model(run, "last", {})


def forwards_of_evaluation(run: Run) -> float:
    """How many forward passes of a training batch an evaluation takes, with its samples."""
    recipe = run.config.train
    moments = recipe.moment_batches if stored_moments(run.flow) else 0
    samples = GRID if run.config.kind is Kind.IMAGES else 0
    count = min(len(run.splits.validation), recipe.eval_images) + samples
    return moments + count / run.batches.size


@contextmanager
def _estimates_put_back(run: Run) -> Iterator[None]:
    """Context: batch norm's moments and the calibration may change; then they are as before."""
    before, last = stored_moments(run.flow), last_of(run.flow)
    calibration = last and copy.deepcopy(last.state_dict())
    try:
        yield
    finally:
        restore_moments(before)
        if last is not None and calibration:
            last.load_state_dict(calibration)


def _average_moments(run: Run, count: int, *, to_the_end: bool = False) -> None:
    """Set batch norm's moments to their averages over `count` training batches.

    to_the_end: also where a signal has come. Else it is TrainingStopped.
    """
    with averaging(run.flow), torch.no_grad():
        for step in range(count if stored_moments(run.flow) else 0):
            if not to_the_end:
                run.heed_signals()
            run.tell(f"evaluating: batch norm's moments, {step}/{count} batches")
            run.flow.log_prob(
                run.batches.at(step, Purpose.MOMENTS), *run.batches.condition_on([step])
            )


def _calibrate(run: Run) -> None:
    """Calibrate the latents on the validation rows, if the flow is to be calibrated."""
    if run.config.model.calibrated:
        labels, chosen = (run.splits.labels or {}).get("validation"), _chosen(run)
        rows = as_tensor(run.splits.validation[chosen]).to(float64_like(run.flow))
        calibrate(run.flow, rows, None if labels is None else labels[chosen])


def _chosen(run: Run) -> NDArray[np.intp]:
    """Which validation images (rows) an evaluation takes: evenly spread ones."""
    count = len(run.splits.validation)
    return np.linspace(0, count - 1, min(count, run.config.train.eval_images)).astype(int)


def _write_model(run: Run, which: str, measured: Mapping[str, float]) -> None:
    """Write model/WHICH.safetensors."""
    if run.main:
        facts = {"step": run.state.step, **measured}
        save_flow(run.flow, run.files.models / f"{which}.safetensors", facts=facts)


def _keep_if_better(run: Run, result: Summary) -> dict[str, float]:
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
    if run.main and result.nonfinite:
        warnings.warn(
            f"step {state.step}: {count_of(result.nonfinite, f'validation {unit.thing}')} "
            f"{'has' if result.nonfinite == 1 else 'have'} no finite log-density",
            stacklevel=3,
        )
    for which in ["last", "best"] if better else ["last"]:
        _write_model(run, which, measured)
    return measured


def validate(run: Run) -> Summary:
    """Mean and error of validation images (rows) in the run's unit, spread over the processes."""
    images, rank, processes = (
        run.splits.validation,
        run.accelerator.process_index,
        run.accelerator.num_processes,
    )
    chosen = _chosen(run)
    labels = (run.splits.labels or {}).get("validation")
    mine, parts, nats = [], [], torch.zeros(len(images), dtype=torch.float64, device="cpu")
    size = processes * (
        min(64, batch_that_fits(run.splits.shape)) if run.config.kind is Kind.IMAGES else ROWS
    )
    for chunk in chunks(len(chosen), size):
        run.heed_signals()
        run.tell(f"evaluating: {chunk.start}/{len(chosen)} {run.unit.things}")
        if some := chosen[chunk][rank::processes].tolist():
            mine += some
            pixels = channels_first(images[some])
            parts.append(
                log_probs(
                    run.flow,
                    pixels,
                    context=None if labels is None else labels[some],
                    seed=run.config.seed,
                    indices=some,
                    on_device=True,
                )
            )
    if mine:
        nats[mine] = torch.cat(parts).cpu().double()
    total = run.accelerator.reduce(
        nats if processes == 1 else nats.to(run.accelerator.device), "sum"
    )
    groups = run.splits.groups_of("validation")
    return summarise(
        run.unit.of(total.cpu()[chosen], run.splits.shape),
        None if groups is None else np.array(groups)[chosen],
    )


def write_samples(run: Run) -> None:
    """Write a grid of images beside samples, from the same z each time. Of a table: nothing."""
    if not run.main or run.config.kind is Kind.TABLE:
        return
    run.tell("drawing samples")
    with evaluating(run.flow):
        samples = to_pixels(
            run.flow.sample(GRID, context=_classes(run.flow), seed=run.config.seed),
            levels=run.config.levels,
        )
    data_beside_samples(
        run.files.samples / f"step-{run.state.step:09d}.png",
        np.asarray(run.splits.validation[:GRID]),
        samples,
        levels=run.config.levels,
    )


def _classes(flow: Flow) -> list[int] | None:
    """Classes of a grid of samples, one after the other. None: the flow is not given classes."""
    if not isinstance(flow.condition, Classes):
        return None
    return [i % len(flow.condition.names) for i in range(GRID)]
