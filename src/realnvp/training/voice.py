"""What a person hears of a training: what it takes, once; how far it is, all the time."""

import sys
import time
from contextlib import suppress
from dataclasses import replace

import torch

from realnvp.config import PRESETS, Config, TrainConfig, resolve
from realnvp.config.words import count_of, in_bytes, quoted
from realnvp.flows.build import build
from realnvp.tools.progress import Report, duration
from realnvp.training.memory import example_of, memory_of, memory_used
from realnvp.training.pace import Pace
from realnvp.training.run import Run, precision_on
from realnvp.training.validation import forwards_of_evaluation

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
    if given := run.config.data.given:
        taken.append(f"given {count_of(len(given), 'column')}: {quoted(given)}")
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
    x, *given = (each.to(device) for each in example_of(flow, min(FEW, recipe.batch_size)))
    fast = precision_on(recipe, device) == "bfloat16"
    for _ in range(2):  # the first is cold
        began = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            nats = -flow.log_prob(torch.ones_like(x), *given).mean()
        torch.autograd.backward(nats)
        nats.item()  # waits for the device
    once = (time.monotonic() - began) / len(x)
    return once * recipe.batch_size * (recipe.max_steps or 0)
