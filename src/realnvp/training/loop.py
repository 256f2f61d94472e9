"""The training loop: maximum likelihood by Adam (section 4.1), resumable to the bit."""

import json
import math
import time
from pathlib import Path

import numpy as np

from realnvp.config import Config
from realnvp.config.errors import ParameterError
from realnvp.device import full_precision, same_each_time
from realnvp.io.checkpoint import TrainState
from realnvp.progress import progress
from realnvp.training.forecast import Voice
from realnvp.training.run import Run, open_run
from realnvp.training.session import TrainingFailed, TrainingStopped, stop_signals
from realnvp.training.step import first_nonfinite, train_step
from realnvp.training.trackers import end_tracker, log_curves
from realnvp.training.validation import evaluate, keep_unevaluated, write_samples

clock = time.monotonic
SAVED_EVERY = 600.0  # seconds of training that a crash may cost, where steps are slow
MAX_FAILED = 20  # steps in a row without a finite loss and gradient, before the training gives up


def train(
    config: Config,
    run_dir: str | Path,
    *,
    device: str = "auto",
    init_from: str | Path | None = None,
) -> TrainState:
    """Train a flow, or go on with the training in run_dir; returns where it stands at the end.

    config: what to train on what. On resume only the fields in `MAY_CHANGE` may differ.
    run_dir: a folder, made if it is missing; all files go there.
    device: auto, cpu, cuda, cuda:1 or mps. auto: cuda if there is a GPU, else cpu.
    init_from: a run or saved flow whose weights the training starts with.
    ValueError: bad input. DamagedError: a file of the run. TrainingStopped: SIGINT or SIGTERM came.
    TrainingFailed: the numbers are beyond repair, or another process is gone.
    """
    if not isinstance(config, Config):
        raise ParameterError(
            "config",
            f"takes a realnvp.Config, got {type(config).__name__}; train a flow that you built by "
            "realnvp.fit(flow, x) and keep it by realnvp.save_flow: run directories, checkpoints "
            "and resume need a configuration",
        )
    # float32 is float32: where speed is wanted, bfloat16 is faster than TF32.
    with (
        full_precision(),
        same_each_time(),
        open_run(config, run_dir, device=device, init_from=init_from) as run,
    ):
        if not run.finished:
            with stop_signals(aloud=run.main) as run.stop:
                _loop(run)
        end_tracker(run.accelerator)
    return run.state


def _loop(run: Run) -> None:
    every, state = run.config.train, run.state
    began = time.monotonic() - state.seconds
    recent = Recent(run)
    with progress("step", every.max_steps or 0, start=state.step, enabled=run.main) as report:
        voice = Voice(run, report)
        run.tell = voice.tell
        if state.pending:
            _conclude(run, voice)
        while not run.finished:
            step_began = clock()
            loss, norm, signum = train_step(run, run.batches.at(state.step))
            run.step_seconds = clock() - step_began
            _count_failed(run, loss, norm)
            state.step += 1
            state.pending = True
            state.seconds = time.monotonic() - began
            recent.add(loss)
            voice.step_done(recent.words)
            if state.step % every.log_every == 0 or run.progress >= 1:
                _log(run, recent.values(norm))
                recent = Recent(run)
            _conclude(run, voice, signum)
        voice.tell()


class Recent:
    """The steps since the last line of metrics.jsonl."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.losses: list[float] = []  # nan for a skipped step
        self.busy = 0.0  # seconds of the steps, without evaluations and saves

    def add(self, loss: float) -> None:
        """Take in a step."""
        self.losses.append(loss)
        self.busy += self.run.step_seconds

    @property
    def value(self) -> float:
        """Mean training density, in the run's unit."""
        return self.run.unit.of(-float(np.mean(self.losses)), self.run.splits.shape)

    @property
    def speed(self) -> float:
        """Images (rows) a second."""
        return len(self.losses) * self.run.batches.size / max(self.busy, 1e-9)

    @property
    def words(self) -> str:
        """For people."""
        unit, best = self.run.unit, self.run.state.best
        measured = f"{self.value:.3f} {unit.words}  {self.speed:.3g} {unit.things}/s"
        return measured if best is None else f"{measured}  best validation {best:.3f}"

    def values(self, norm: float) -> dict[str, float]:
        """A line of metrics.jsonl. norm: of the last step's gradient."""
        unit = self.run.unit
        return {
            f"train_{unit.key}": self.value,
            "gradient_norm": norm,
            f"{unit.things}_per_second": self.speed,
            "skipped": self.run.state.skipped,
        }


def _conclude(run: Run, voice: Voice, signum: int = 0) -> None:
    """Evaluate, draw samples and save, where it is time for that after a step.

    TrainingStopped: a signal has come (signum) or comes meanwhile; the training and its model are
    saved. A resumed training first does what the signal cut short, so it ends as if nobody had
    stopped it.
    """
    every, state, last = run.config.train, run.state, run.progress >= 1
    if signum:
        run.tell("stopping: saving")
        run.save()
        keep_unevaluated(run)
        raise TrainingStopped(signum, state.step)
    looked = time.monotonic()
    try:
        with run.average.used():
            if state.step % every.eval_every == 0 or last:
                _log(run, evaluate(run))
            if state.step % every.sample_every == 0 or last:
                write_samples(run)
    except TrainingStopped:
        run.save()
        raise
    if state.step % every.eval_every == 0:
        voice.pace.evaluation = time.monotonic() - looked
    state.pending = False
    unsaved = state.training_seconds - run.saved_at
    if state.step % every.save_every == 0 or run.finished or unsaved > SAVED_EVERY:
        run.tell("saving")
        run.save()


def _count_failed(run: Run, loss: float, norm: float) -> None:
    """Count steps in a row that were not finite; TrainingFailed after too many."""
    if math.isfinite(loss) and math.isfinite(norm):
        run.failed_in_a_row = 0
        return
    run.failed_in_a_row += 1
    if run.failed_in_a_row == MAX_FAILED:
        step = run.state.step
        raise TrainingFailed(
            f"step {step}: loss {loss}, gradient norm {norm}, "
            f"{first_nonfinite(run.flow, run.batches.at(step), l2=run.config.train.l2)}, "
            f"after {MAX_FAILED} such steps in a row; "
            f"training {run.unit.things} {run.batches.indices(step).tolist()}"
        )


def _log(run: Run, values: dict[str, float]) -> None:
    """Add a line to metrics.jsonl, and points to the curves."""
    if run.main:
        entry = {"step": run.state.step, "seconds": round(run.state.seconds, 3)} | values
        finite = {name: value if math.isfinite(value) else None for name, value in entry.items()}
        path = run.files.metrics_file
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")
    log_curves(run.accelerator, run.files.path, values, step=run.state.step)
