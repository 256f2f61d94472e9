"""The training loop: maximum likelihood by Adam (section 4.1), resumable to the bit."""

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from realnvp.config.fields import Config
from realnvp.data.prepared import find_data
from realnvp.device import deterministic, full_precision
from realnvp.flows.build import count_parameters
from realnvp.io.run_dir import RunDir, TrainState
from realnvp.moments import restore_moments, stored_moments
from realnvp.progress import set_status, show_progress, track
from realnvp.training.optim import loss_and_gradient, rate, take_step
from realnvp.training.run import Run, assemble, open_run
from realnvp.training.session import TrainingFailed, TrainingStopped, joined_processes, stop_signals
from realnvp.training.validation import evaluate, write_samples

SAVED_EVERY = 600.0  # seconds of training that a crash may cost, where steps are slow
MAX_FAILED = 20  # steps in a row without a finite loss and gradient, before the training fails
TIMED = 3  # steps of a dry run; the first takes longer


def train(
    config: Config,
    run_dir: str | Path,
    *,
    device: str = "auto",
    init_from: str | Path | None = None,
) -> TrainState:
    """Train a flow, or go on with the training in run_dir; returns where it stands at the end.

    config: model, data and recipe. On resume only the fields in `MAY_CHANGE` may differ.
    run_dir: a folder, made if it is missing; all files go there.
    device: auto, cpu, cuda or cuda:1. auto: cuda if there is a GPU, else cpu.
    init_from: a run or saved flow whose weights the training starts with.
    ValueError: bad input. DamagedError: a file of the run. TrainingStopped: SIGINT or SIGTERM came.
    TrainingFailed: losses are not finite, memory is short, or another process is gone.
    """
    try:
        # float32 is float32: where speed is wanted, bfloat16 is faster than TF32.
        with (
            full_precision(),
            deterministic(),
            open_run(config, run_dir, device=device, init_from=init_from) as run,
            stop_signals() as run.stop,
        ):
            total = run.config.train.max_steps
            with nullcontext() if run.main else show_progress(False):
                for _ in track(_steps(run), "step", total=total, start=run.state.step):
                    pass
        return run.state
    except torch.OutOfMemoryError:
        raise TrainingFailed(
            "out of memory; a smaller --train.batch-size, --train.gradient-checkpointing "
            "or a smaller --data.crop takes less"
        ) from None


def seconds_per_step(
    config: Config, *, device: str = "auto", init_from: str | Path | None = None
) -> tuple[Config, int, float]:
    """The resolved configuration of a training, its parameters, and the seconds of a step.

    Takes three steps and writes nothing. Arguments and errors are those of `train`.
    """
    with full_precision(), deterministic(), joined_processes(device, config.train.timeout) as here:
        splits = find_data(config.data, seed=config.seed)
        run = assemble(config, RunDir(tempfile.gettempdir()), splits, here, init_from)
        seconds = []
        for step in range(TIMED):
            began = time.monotonic()
            train_step(run, run.batches.at(step))
            seconds.append(time.monotonic() - began)
    return run.config, count_parameters(run.config), min(seconds)


def _steps(run: Run) -> Iterator[None]:
    """Take the steps of a training; each is followed by the evaluations and saves that are due."""
    state, first, began = run.state, run.state.step, time.monotonic() - run.state.seconds
    losses, busy = list[float](), 0.0  # since the last line of metrics.jsonl
    if state.pending:
        _conclude(run)
    while not run.finished:
        step_began = time.monotonic()
        loss, norm, signum = train_step(run, run.batches.at(state.step))
        run.step_seconds = time.monotonic() - step_began
        finite = math.isfinite(loss) and math.isfinite(norm)
        run.failed_in_a_row = 0 if finite else run.failed_in_a_row + 1
        if run.failed_in_a_row == MAX_FAILED:
            raise TrainingFailed(
                f"step {state.step}: {MAX_FAILED} steps in a row with loss {loss}, gradient norm "
                f"{norm}; batch: {run.batches.indices(state.step).tolist()}"
            )
        state.step += 1
        if state.step == first + TIMED and run.main:
            _note_size(run)
        state.pending = True
        state.seconds = time.monotonic() - began
        losses.append(loss)
        busy += run.step_seconds
        if state.step % run.config.train.log_every == 0 or run.progress >= 1:
            mean = run.unit.of(-float(np.mean(losses)), run.splits.shape)
            best = "" if state.best is None else f"  best validation {state.best:.3f}"
            set_status(f"{mean:.3f} {run.unit.words}{best}")
            per_second = len(losses) * run.batches.size / max(busy, 1e-9)
            values = {
                f"train_{run.unit.key}": mean,
                "gradient_norm": norm,
                f"{run.unit.things}_per_second": per_second,
                "skipped": state.skipped,
            }
            _log(run, values)
            losses, busy = [], 0.0
        _conclude(run, signum)
        yield


def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
    """Take a step on x, this process's part of the batch.

    Returns the loss (nats an image), the norm of its gradient, and the signal to stop, or 0.
    A step whose loss or gradient is not finite, or whose gradient is beyond `skip_factor`, changes
    neither weights nor moments.
    """
    before, state, recipe = stored_moments(run.flow), run.state, run.config.train
    nats, norm = loss_and_gradient(
        run.model,
        run.flow,
        x,
        *run.batches.condition_on([state.step]),
        grad_clip=recipe.grad_clip,
        l2=recipe.l2,
        bfloat16=run.precision == "bfloat16",
    )
    others = (nats.new_full((), value) for value in (max(run.stop, default=0), run.step_seconds))
    # The only wait for the device in a step.
    everyones = run.processes.gather(torch.stack([nats, norm.to(nats), *others])).cpu().numpy()
    loss = everyones[:, 0].mean().item()
    _, norm, signum, seconds = everyones.max(0).tolist()
    state.training_seconds += seconds  # of the slowest process: all must agree on the learning rate
    finite, typical = math.isfinite(loss) and math.isfinite(norm), state.typical_norm
    # Muon's steps have one size, however large the gradient.
    outlier = recipe.skip_factor is not None and 0 < recipe.skip_factor * typical < norm
    if finite and not outlier:
        rising = (state.step + 1) / (recipe.warmup + 1)
        share = rate(run.progress, rising=rising, decay=recipe.decay)
        take_step(run.optimizers, run.average, step=state.step + 1, share=share)
    else:
        restore_moments(before)
        state.skipped += 1
    if finite:
        # The geometric mean of about fifty norms; each counts as at most ten times the mean.
        moving = typical**0.98 * min(norm, 10 * typical) ** 0.02
        state.typical_norm = moving if typical and norm else norm
    run.flow.zero_grad()
    return loss, norm, int(signum)


def _conclude(run: Run, signum: int = 0) -> None:
    """Evaluate, draw samples and save, where that is due after a step.

    TrainingStopped: a signal has come (signum) or comes meanwhile; the training is saved. A resumed
    training first does what is still due, so it ends as if nobody had stopped it.
    """
    every, state, last = run.config.train, run.state, run.progress >= 1
    try:
        if signum:
            raise TrainingStopped(signum, state.step)
        with run.average.used():
            if state.step % every.eval_every == 0 or last:
                _log(run, evaluate(run))
            if state.step % every.sample_every == 0 or last:
                write_samples(run)
    except TrainingStopped:
        run.save()
        raise
    state.pending = False
    unsaved = state.training_seconds - run.saved_at
    if state.step % every.save_every == 0 or run.finished or unsaved > SAVED_EVERY:
        run.save()


def _note_size(run: Run) -> None:
    """Print parameters, the time to the end, and the memory of a GPU, on stderr."""
    left = timedelta(seconds=round((1 / run.progress - 1) * run.state.training_seconds))
    size = f"{count_parameters(run.config):,} parameters, {left} to the end"
    if run.processes.device.type == "cuda":
        size += f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory"
    print(size, file=sys.stderr)


def _log(run: Run, values: Mapping[str, float]) -> None:
    """Add a line to metrics.jsonl, and points to the curves."""
    if not run.main:
        return
    entry = {"step": run.state.step, "seconds": round(run.state.seconds, 3), **values}
    finite = {name: value if math.isfinite(value) else None for name, value in entry.items()}
    with run.files.metrics_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite) + "\n")
    run.log_curves(values, run.state.step)
