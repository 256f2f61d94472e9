"""The training loop: maximum likelihood by Adam (section 4.1), resumable to the bit."""

import json
import math
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from realnvp.config import Config, Kind, validate
from realnvp.data import quantize
from realnvp.device import full_precision, same_each_time
from realnvp.evaluation.figures import data_beside_samples
from realnvp.evaluation.likelihood import Summary, log_probs, summarise
from realnvp.files.checkpoint import TrainState, save_checkpoint
from realnvp.files.folders import keep_last, naming
from realnvp.files.records import DamagedError
from realnvp.files.saved import lost_best, save_model
from realnvp.flows.flow import ROWS, batch_that_fits, evaluating
from realnvp.moments import averaging, restore_moments, stored_moments
from realnvp.noise import Purpose
from realnvp.progress import progress
from realnvp.training.nonfinite import first_nonfinite
from realnvp.training.run import Run, start
from realnvp.training.signals import stop_signals
from realnvp.training.step import train_step
from realnvp.training.trackers import end_tracker, log_curves

clock = time.monotonic
GRID = 36  # images of a grid of samples
MAX_FAILED = 20  # steps in a row without a finite loss and gradient, before the training gives up


class TrainingStopped(Exception):
    """A signal asked the training to stop; it has saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; the same command goes on from there")
        self.exit_code = 128 + signum


class TrainingFailed(Exception):
    """The loss or its gradient is not finite, again and again; or another process is gone."""

    exit_code = 1


def train(config: Config, run_dir: str | Path, *, device: str = "auto", init_from: str | Path | None = None) -> TrainState:
    """Train a flow, or go on with the training in run_dir; where it stands at the end.

    init_from: a run or saved flow whose weights the training starts with. ValueError for bad input; TrainingStopped after SIGINT
    or SIGTERM; TrainingFailed if the numbers are beyond repair.
    """
    if config.data.source:  # so that the run can be looked at from any folder
        config = replace(config, data=replace(config.data, source=str(Path(config.data.source).expanduser().absolute())))
    with ExitStack() as stack:
        stack.enter_context(_with_others(config.train.timeout))
        stack.enter_context(full_precision())  # float32 is float32; where speed is wanted, bfloat16 is faster than TF32
        stack.enter_context(same_each_time())
        run = start(validate(config), Path(run_dir), device=device, init_from=init_from, stack=stack)
        _check_best(run)
        if not run.finished:
            _loop(run, stack.enter_context(stop_signals()))
        end_tracker(run.accelerator)
    return run.state


@contextmanager
def _with_others(timeout: float) -> Iterator[None]:
    """Within it, that another process has ended or does not answer is a TrainingFailed."""
    try:
        yield
    except RuntimeError as error:  # torch's own, of no kind of its own on CPUs
        if not re.search("gloo|NCCL|TCPStore|client socket", str(error)):
            raise
        reason = re.sub(r"^\[\S+\] ", "", str(error)).split(". ")[0]
        words = f"another process has ended, or has not answered for train.timeout = {timeout:g} seconds: {reason}"
        raise TrainingFailed(f"{words}; the same command goes on from the last checkpoint") from None


def _check_best(run: Run) -> None:
    """DamagedError if the best model of a finished training is lost; else a warning, and the next evaluation writes a new one."""
    if run.state.best is None or not (lost := lost_best(run.run_dir)):
        return
    if run.finished:
        raise DamagedError(f"{lost}; --train.max-steps N trains on and writes a new one")
    if run.accelerator.is_main_process:
        warnings.warn(f"{lost}; the next evaluation writes a new one", stacklevel=2)
    run.state.best = None


def _loop(run: Run, stop: list[int]) -> None:
    every, state, unit = run.config.train, run.state, run.unit
    began = time.monotonic() - state.seconds
    recent: list[float] = []  # losses since the last line of metrics.jsonl; nan for a skipped step
    busy = 0.0  # seconds of those steps, without evaluations and saves
    with progress("step", every.max_steps or 0, start=state.step, enabled=run.accelerator.is_main_process) as report:
        if state.pending:
            _conclude(run, stop)
        while not run.finished:
            step_began = clock()
            loss, norm, signum = train_step(run, run.batches.at(state.step), stop=stop)
            run.step_seconds = clock() - step_began
            _count_failed(run, loss, norm)
            state.step += 1
            state.pending = True
            state.seconds = time.monotonic() - began
            recent.append(loss)
            busy += run.step_seconds

            if state.step % every.log_every == 0 or run.progress >= 1:
                value = unit.of(-float(np.mean(recent)), run.splits.shape)
                speed = len(recent) * run.batches.size / max(busy, 1e-9)
                values = {f"train_{unit.key}": value, "gradient_norm": norm, f"{unit.things}_per_second": speed}
                _log(run, values | {"skipped": state.skipped})
                words = f"{value:.3f} {unit.words}  {speed:.0f} {unit.things}/s  {_best(state)}"
                report(state.step, words, _expected_steps(run))
                recent, busy = [], 0.0
            _conclude(run, stop, signum)


def _expected_steps(run: Run) -> int | None:
    """How many steps there will be; None while no time of a budget in minutes has been counted."""
    step, progress = run.state.step, run.progress
    return max(step, round(step / progress)) if progress else None


def _conclude(run: Run, stop: list[int], signum: int = 0) -> None:
    """Evaluate, draw samples and save, where it is time for that after a step.

    TrainingStopped if a signal has come (signum) or comes; then all is saved, and what it cut short is left to the resumed
    training, which so becomes the one that nobody stopped.
    """
    every, state, last = run.config.train, run.state, run.progress >= 1
    try:
        if signum:
            raise TrainingStopped(signum, state.step)
        with run.average.used():
            if state.step % every.eval_every == 0 or last:
                _evaluate(run, stop)
            if state.step % every.sample_every == 0 or last:
                _write_samples(run)
    except TrainingStopped:
        _save(run)
        raise
    state.pending = False
    if state.step % every.save_every == 0 or run.finished:
        _save(run)


def _heed(run: Run, stop: list[int]) -> None:
    """TrainingStopped if a signal has come to one of the processes."""
    signum = max(stop, default=0)
    if run.accelerator.num_processes > 1:
        signum = int(run.accelerator.gather(torch.full((1,), signum, device=run.accelerator.device)).max())
    if signum:
        raise TrainingStopped(signum, run.state.step)


def _count_failed(run: Run, loss: float, norm: float) -> None:
    """Keep count of steps in a row that were not finite; TrainingFailed after too many."""
    if math.isfinite(loss) and math.isfinite(norm):
        run.failed_in_a_row = 0
        return
    run.failed_in_a_row += 1
    if run.failed_in_a_row == MAX_FAILED:
        images = run.batches.indices(run.state.step).tolist()
        where = first_nonfinite(run.flow, run.batches.at(run.state.step), l2=run.config.train.l2)
        found = f"loss {loss}, gradient norm {norm}, {where}"
        raise TrainingFailed(
            f"step {run.state.step}: {found}, after {MAX_FAILED} such steps in a row; training {run.unit.things} {images}"
        )


def _save(run: Run) -> None:
    if run.accelerator.is_main_process:
        save_checkpoint(
            run.run_dir, run.state, flow=run.flow, optimizers=[each.optimizer for each in run.optimizers], average=run.average
        )
    run.accelerator.wait_for_everyone()


def _evaluate(run: Run, stop: list[int]) -> None:
    """Bits/dim, or nats, on validation with moments re-estimated over training batches; writes the last and the best model.

    TrainingStopped if a signal comes before it has a result: then nothing has changed.
    """
    before = stored_moments(run.flow)
    try:
        with averaging(run.flow), torch.no_grad():
            for step in range(run.config.train.moment_batches if before else 0):
                _heed(run, stop)
                run.flow.log_prob(run.batches.at(step, Purpose.MOMENTS))
        result = _validate(run, stop)
    except TrainingStopped:
        restore_moments(before)
        raise
    state, unit = run.state, run.unit
    better = math.isfinite(result.mean) and (state.best is None or unit.sign * result.mean > unit.sign * state.best)
    state.evaluations_since_best = 0 if better else state.evaluations_since_best + 1
    if result.nonfinite and run.accelerator.is_main_process:
        warnings.warn(f"step {state.step}: {result.nonfinite} validation {unit.things} have no finite log-density", stacklevel=2)
    if better:
        state.best, state.best_step = result.mean, state.step
    measured = {f"validation_{unit.key}": result.mean, "validation_standard_error": result.standard_error}
    if run.accelerator.is_main_process:
        facts = {"step": state.step} | measured
        for which in ["last", "best"] if better else ["last"]:
            save_model(run.flow, run.run_dir / "model" / f"{which}-{state.step:09d}", facts=facts)
            keep_last(run.run_dir / "model", which, 1)
    restore_moments(before)
    _log(run, measured)


def _validate(run: Run, stop: list[int]) -> Summary:
    images, rank, processes = run.splits.validation, run.accelerator.process_index, run.accelerator.num_processes
    chosen = np.linspace(0, len(images) - 1, min(len(images), run.config.train.eval_images)).astype(int)
    mine, parts, nats = [], [], torch.zeros(len(images), dtype=torch.float64)
    size = processes * (min(64, batch_that_fits(run.splits.shape)) if run.config.kind is Kind.IMAGES else ROWS)
    for first in range(0, len(chosen), size):
        _heed(run, stop)
        if some := chosen[first : first + size][rank::processes].tolist():
            mine += some
            pixels = np.moveaxis(images[some], -1, 1)
            parts.append(log_probs(run.flow, pixels, seed=run.config.seed, indices=some, on_device=True))
    if mine:
        nats[mine] = torch.cat(parts).cpu().double()
    total = run.accelerator.reduce(nats if processes == 1 else nats.to(run.accelerator.device), "sum")
    assert isinstance(total, Tensor)
    groups = (run.splits.groups or {}).get("validation")
    values = run.unit.of(total.cpu()[chosen], run.splits.shape)
    return summarise(values, None if groups is None else np.array(groups)[chosen])


def _write_samples(run: Run) -> None:
    """A grid of data beside samples, from the same z each time, so that one sees it learn; none of a table."""
    if not run.accelerator.is_main_process or run.config.kind is Kind.TABLE:
        return
    with evaluating(run.flow):
        samples = quantize(run.flow.sample(GRID, seed=run.config.seed).nan_to_num(), levels=run.config.levels)
    data = np.asarray(run.splits.validation[:GRID])
    path = run.run_dir / "samples" / f"step-{run.state.step:09d}.png"
    data_beside_samples(path, data, samples.cpu().permute(0, 2, 3, 1).numpy(), levels=run.config.levels)


def _log(run: Run, values: dict[str, float]) -> None:
    if run.accelerator.is_main_process:
        entry = {"step": run.state.step, "seconds": round(run.state.seconds, 3)} | values
        path = run.run_dir / "metrics.jsonl"
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in entry.items()}) + "\n")
    log_curves(run.accelerator, run.run_dir, values, step=run.state.step)


def _best(state: TrainState) -> str:
    return "" if state.best is None else f"best validation {state.best:.3f}"
