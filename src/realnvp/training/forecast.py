"""What a person hears of a training: what it takes, once; how far it is, all the time."""

import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from realnvp.config import PRESETS, Config, TrainConfig, resolve
from realnvp.config.errors import count_of, in_bytes, quoted
from realnvp.data import Dataset
from realnvp.device import full_precision, same_each_time
from realnvp.flows.build import build
from realnvp.io.checkpoint import TrainState
from realnvp.progress import Report, duration, progress
from realnvp.training.memory import (
    count_parameters,
    example_of,
    memory_of,
    memory_used,
    training_memory,
)
from realnvp.training.run import Run, precision_on, rehearsed_run
from realnvp.training.step import train_step
from realnvp.training.validation import forwards_of_evaluation

REMEMBERED = 50  # steps whose mean counts


class Plan(NamedTuple):
    """What is still to come of a training."""

    steps: int
    """How many there are at its end."""
    seconds_to_evaluation: float
    """Until the next evaluation has a result."""
    seconds_to_end: float


class Pace:
    """Seconds of a step and of an evaluation, as far as they are known."""

    def __init__(self, recipe: TrainConfig, evaluation: float) -> None:
        """evaluation: how many forward passes of a training batch an evaluation is worth."""
        self.recipe, self.forwards = recipe, evaluation
        self.steps, self.step = 0, 0.0
        self._evaluation: float | None = None

    @property
    def warm(self) -> bool:
        """Whether more than the first steps, which take longer, have been timed."""
        return self.steps > 2

    def took(self, seconds: float) -> None:
        """Take in a step. The first is forgotten at the second: it is cold."""
        self.steps += 1
        weight = 1 / min(max(self.steps - 1, 1), REMEMBERED)
        self.step += weight * (seconds - self.step)

    @property
    def evaluation(self) -> float:
        """Seconds of an evaluation, its samples included.

        Before the first has been timed: a forward pass takes a third of a step.
        """
        return self.forwards * self.step / 3 if self._evaluation is None else self._evaluation

    @evaluation.setter
    def evaluation(self, seconds: float) -> None:
        self._evaluation = seconds

    def plan(self, state: TrainState) -> Plan:
        """What is to come, at this pace. At least one step must have been timed."""
        recipe, step = self.recipe, max(self.step, 1e-9)
        budgets = []
        if recipe.max_steps:
            budgets.append((recipe.max_steps - state.step) * step)
        if recipe.max_minutes:
            budgets.append(60 * recipe.max_minutes - state.training_seconds)
        training = max(0.0, min(budgets))
        steps = state.step + round(training / step)
        # After the last step, too, there is an evaluation.
        done, every = state.step - state.pending, recipe.eval_every
        if done >= steps:
            return Plan(steps, 0.0, 0.0)
        following = min(every * (done // every + 1), steps)
        evaluations = -(-steps // every) - done // every
        return Plan(
            steps,
            (following - state.step) * step + self.evaluation,
            training + evaluations * self.evaluation,
        )


clock = time.monotonic
STEPS = 3  # to time; a first step is cold
LONG_STEP = 6.0  # seconds; no further step is taken where one takes longer
FEW_STEPS = (2, 8)  # examples of two steps before, which tell whether whole ones can be afforded


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
    for examples in (FEW_STEPS[0], *FEW_STEPS):  # the first is cold
        run.batches = whole.smaller(examples * run.accelerator.num_processes)
        began = clock()
        train_step(run, run.batches.at(run.state.step))
        seconds[run.batches.size] = clock() - began
    run.batches = whole
    few, many = min(seconds), max(seconds)
    each = max(seconds[many] - seconds[few], 0.0) / max(many - few, 1)
    return seconds[many] + (whole.size - many) * each


SOON = 8.0  # seconds after which even a single, cold step is an estimate
FEW = 8  # examples of a batch that is timed
LONG = 3600.0  # seconds of a training that is told how to be shorter


class Voice:
    """Speaks of a run through a progress report."""

    def __init__(self, run: Run, report: Report) -> None:
        self.run, self.report = run, report
        self.pace = Pace(run.config.train, forwards_of_evaluation(run))
        self.words, self.began, self.introduced = "", time.monotonic(), False

    def tell(self, doing: str = "") -> None:
        """Show where the training stands. doing: what it does beside steps."""
        plan = self.pace.plan(self.run.state) if self.pace.steps else None
        self.report(
            self.run.state.step,
            doing or self.words,
            plan and plan.steps,
            plan and plan.seconds_to_end,
        )

    def step_done(self, words: str) -> None:
        """Show a step. Soon after the first, also say what the training will take."""
        self.pace.took(self.run.step_seconds)
        self.words = words
        self.tell()
        late = time.monotonic() - self.began > SOON
        if not self.introduced and (self.pace.warm or late) and self.run.main:
            self.introduced = True
            print("\n".join(introduction(self.run, self.pace)), file=sys.stderr, flush=True)


def introduction(run: Run, pace: Pace) -> list[str]:
    """Lines: a table's columns, or the classes of images; parameters, memory, time to an evaluation
    and to the end; how to be faster.
    """
    plan, device = pace.plan(run.state), run.accelerator.device
    parameters = sum(weight.numel() for weight in run.flow.parameters())
    memory = (
        f"{in_bytes(memory_used(device))} of {in_bytes(memory_of(device))} of memory"
        if memory_used(device)
        else f"{in_bytes(memory_of(device))} of memory are there"
    )
    which = "first" if run.state.best is None else "next"
    cold = "" if pace.warm else ", by the first step alone"
    line = (
        f"{parameters:,} parameters, {memory}, {pace.step:.2g} s a step on {device.type}; "
        f"{which} evaluation in {duration(plan.seconds_to_evaluation)}, "
        f"end in {duration(plan.seconds_to_end)}{cold}"
    )
    columns = run.config.data.columns
    taken = [f"{count_of(len(columns), 'column')}: {quoted(columns)}"] if columns else []
    if context := run.config.data.context_columns:
        taken.append(f"given {count_of(len(context), 'column')}: {quoted(context)}")
    if classes := run.config.data.class_names:
        taken.append(f"{len(classes)} classes: {quoted(classes)}")
    return [*taken, line, *how_to_be_faster(run.config, plan.seconds_to_end, device)]


def how_to_be_faster(config: Config, seconds: float, device: torch.device) -> list[str]:
    """A line about a training of more than an hour: the preset and the flags that fit. Else none.

    None either where somebody has chosen the minutes.
    """
    if seconds <= LONG or config.train.max_minutes:
        return []
    shorter = f"--train.max-minutes {LONG / 60:.0f} takes as many steps as fit into an hour"
    if twin := _modern(config):
        there = duration(seconds_of_steps(twin, device))
        shorter = f"realnvp train {twin.name}: roughly {there}; {shorter}"
    return [f"This takes {duration(seconds)}. {shorter}"]


def _modern(config: Config) -> Config | None:
    """The modern preset in place of one of the paper's, for the same data, with the same flags."""
    name = f"{config.name}-modern"
    if config.name not in PRESETS or name not in PRESETS:
        return None
    usual, twin = PRESETS[config.name].train, PRESETS[name]
    chosen = {
        field: value
        for field in ("max_steps", "batch_size")
        if (value := getattr(config.train, field)) != getattr(usual, field)
    }
    with suppress(ValueError):  # these images do not fit its scales
        recipe: TrainConfig = replace(twin.train, **chosen)
        return resolve(replace(twin, data=config.data, train=recipe), config.shape)
    return None


def seconds_of_steps(config: Config, device: torch.device) -> float:
    """How long the steps of a (resolved) configuration take, by passes over a few examples."""
    recipe, flow = config.train, build(config).to(device).train()
    x, *context = (each.to(device) for each in example_of(flow, min(FEW, recipe.batch_size)))
    fast = precision_on(recipe, device) == "bfloat16"
    for _ in range(2):  # the first is cold
        began = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            nats = -flow.log_prob(torch.ones_like(x), *context).mean()
        torch.autograd.backward(nats)
        nats.item()  # waits for the device
    once = (time.monotonic() - began) / len(x)
    return once * recipe.batch_size * (recipe.max_steps or 0)
