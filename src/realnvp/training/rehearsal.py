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
from realnvp.training.run import rehearsed_run
from realnvp.training.step import train_step
from realnvp.training.validation import forwards_of_evaluation
from realnvp.training.voice import how_to_be_faster

STEPS = 3  # to time; a first step is cold
LONG_STEP = 10.0  # seconds; no further step is taken after one that takes longer


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
    """How many steps were timed."""
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
    """Take some steps of a training and forget them. The arguments and errors are `train`'s."""
    with (
        full_precision(),
        same_each_time(),
        rehearsed_run(config, run_dir, device=device, init_from=init_from) as run,
    ):
        start, pace = run.state.step, Pace(run.config.train, forwards_of_evaluation(run))
        with progress("timed step", STEPS, enabled=run.main) as report:
            while pace.steps < STEPS and (pace.steps == 0 or pace.step < LONG_STEP):
                began = time.monotonic()
                train_step(run, run.batches.at(start + pace.steps))
                pace.took(time.monotonic() - began)
                report(pace.steps)
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
            pace.steps,
            plan,
            how_to_be_faster(run.config, plan.seconds_to_end),
        )
