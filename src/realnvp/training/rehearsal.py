"""What a training would take, from a few real steps on its device; nothing is written."""

import time
from dataclasses import dataclass
from pathlib import Path

from realnvp.config import Config
from realnvp.data import Dataset
from realnvp.tools.device import full_precision, same_each_time
from realnvp.tools.progress import progress
from realnvp.training.memory import count_parameters, memory_of, training_memory
from realnvp.training.pace import Pace, Plan
from realnvp.training.run import Run, rehearsed_run
from realnvp.training.step import train_step
from realnvp.training.validation import forwards_of_evaluation
from realnvp.training.voice import how_to_be_faster

clock = time.monotonic
STEPS = 3  # to time; a first step is cold
LONG_STEP = 6.0  # seconds; no further step is taken where one takes longer
FEW = (2, 8)  # examples of two steps before, which tell whether whole ones can be afforded


@dataclass(frozen=True)
class Rehearsal:
    """A training that has not begun, or the rest of one that has."""

    config: Config
    """Resolved by the data."""
    data: Dataset
    device: str
    parameters: int
    memory: int
    """Bytes that it takes, by counting."""
    memory_available: int
    step: int
    """Where it stands."""
    seconds_per_step: float
    timed: int
    """How many steps were timed. 0: some of `FEW` examples alone."""
    plan: Plan
    faster: list[str]
    """What takes less than an hour, where this takes more."""


def rehearse(
    config: Config,
    run_dir: str | Path,
    *,
    device: str = "auto",
    init_from: str | Path | None = None,
) -> Rehearsal:
    """Take some steps of a training and forget them: about 20 seconds of them at most.

    The arguments and errors are `train`'s.
    """
    with (
        full_precision(),
        same_each_time(),
        rehearsed_run(config, run_dir, device=device, init_from=init_from) as run,
    ):
        start, pace = run.state.step, Pace(run.config.train, forwards_of_evaluation(run))
        with progress("timed step", STEPS, enabled=run.main) as report:
            seconds = _roughly(run)
            while pace.steps < STEPS and max(seconds, pace.step) < LONG_STEP:
                began = clock()
                train_step(run, run.batches.at(start + pace.steps))
                pace.took(clock() - began)
                report(pace.steps)
        timed = pace.steps
        if not timed:
            pace.took(seconds)
        plan, place = pace.plan(run.state), run.accelerator.device
        return Rehearsal(
            run.config,
            run.splits,
            place.type,
            count_parameters(run.config),
            training_memory(run.config),
            memory_of(place),
            start,
            pace.step,
            timed,
            plan,
            how_to_be_faster(run.config, plan.seconds_to_end, place),
        )


def _roughly(run: Run) -> float:
    """The seconds of a step, by a line through the seconds of steps on few examples."""
    whole, seconds = run.batches, {}
    for examples in (FEW[0], *FEW):  # the first is cold
        run.batches = whole.smaller(examples * run.accelerator.num_processes)
        began = clock()
        train_step(run, run.batches.at(run.state.step))
        seconds[run.batches.size] = clock() - began
    run.batches = whole
    few, many = min(seconds), max(seconds)
    each = max(seconds[many] - seconds[few], 0.0) / max(many - few, 1)
    return seconds[many] + (whole.size - many) * each
