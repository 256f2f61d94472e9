"""What `realnvp train --dry-run` prints: a page for people, or one JSON object."""

import json
from typing import TYPE_CHECKING, Any

from realnvp.cli.output import thousands
from realnvp.config import Config, Kind, to_json
from realnvp.config.units import unit_of
from realnvp.config.words import count_of, in_bytes, quoted
from realnvp.tools.progress import duration

if TYPE_CHECKING:
    from realnvp.training.rehearsal import Rehearsal


def page(found: "Rehearsal") -> list[tuple[str, str]]:
    """Rows: what there is, and in words how much of it."""
    data, plan, config = found.data, found.plan, found.config
    things, every = unit_of(config).things, config.train
    counts = ", ".join(f"{count:,} {split}" for split, count in data.counts.items())
    samples = "" if config.kind is Kind.TABLE else " and samples"
    begun = f", from step {found.step:,}" if found.step else ""
    timed = {0: "roughly, by steps of a few", 1: "by its first step"}.get(
        found.timed, f"{found.timed} steps timed"
    )
    batch = min(every.batch_size, data.counts["train"])
    levels = "" if data.levels in (None, 256) else f", {data.levels:,} levels"
    rows = [
        ("preset", f"{config.name}: {_model(config)}"),
        ("data", f"{data.name}: {counts} {things} of {_shape(data.shape)}{levels}"),
        *([("columns", quoted(config.data.columns))] if config.data.columns else []),
        *([("given", quoted(config.data.given))] if config.data.given else []),
        ("parameters", thousands(found.parameters)),
        (
            "memory",
            f"about {in_bytes(found.memory)}; "
            f"{found.device} has {in_bytes(found.memory_available)}",
        ),
        (
            "a step",
            f"{found.seconds_per_step:.2g} s, {batch:,} {things} on {found.device} ({timed})",
        ),
        (
            "first results",
            f"in {duration(plan.seconds_to_evaluation)}: an evaluation{samples} every "
            f"{count_of(every.eval_every, 'step')}",
        ),
        ("end", f"in {duration(plan.seconds_to_end)}, at step {plan.steps:,}{begun}"),
    ]
    return [*rows, *(("more than an hour", line) for line in found.faster)]


def as_json(found: "Rehearsal") -> dict[str, Any]:
    """All of it, for programs."""
    data, plan = found.data, found.plan
    return {
        "config": json.loads(to_json(found.config)),
        "parameters": found.parameters,
        "training_memory_bytes": found.memory,
        "memory_available_bytes": found.memory_available,
        "data": {
            "name": data.name,
            "version": data.version,
            "counts": data.counts,
            "shape": data.shape,
        },
        "device": found.device,
        "step": found.step,
        "steps": plan.steps,
        "seconds_per_step": found.seconds_per_step,
        "seconds_to_first_evaluation": plan.seconds_to_evaluation,
        "seconds_to_end": plan.seconds_to_end,
        "faster": found.faster,
    }


def _model(config: Config) -> str:
    model = config.model
    width = f"width {model.width}, {count_of(model.num_blocks, 'block')}"
    if model.architecture == "vector":
        return f"vector, {count_of(model.num_couplings, 'coupling')}, {width}"
    return f"{model.architecture}, {count_of(model.num_scales or 1, 'scale')}, {width}"


def _shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return count_of(shape[0], "column")
    channels, height, width = shape
    return f"{height}x{width} pixels, {count_of(channels, 'channel')}"
