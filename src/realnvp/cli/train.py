"""realnvp train: a preset or a file, and flags over it."""

import inspect
import json
import os
import shlex
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from realnvp.cli.options import (
    Device,
    Flag,
    Json,
    Threads,
    note,
    print_json,
    print_table,
    say,
    setup_device,
    thousands,
)
from realnvp.config import PRESETS, Config, Kind, nearest, read_config, to_json, validate
from realnvp.config.errors import ParameterError, count_of, in_bytes, quoted
from realnvp.config.fields import is_richer
from realnvp.config.units import unit_of
from realnvp.progress import duration

if TYPE_CHECKING:
    from realnvp.training.forecast import Rehearsal


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
        *(
            [("context", quoted(config.data.context_columns))]
            if config.data.context_columns
            else []
        ),
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


def with_model_of_start(
    config: Config, run_dir: Path, init_from: str | None, flags: Collection[str]
) -> Config:
    """The configuration with the model of the flow that the training starts, or once started, with.

    config: a preset, with the values of the flags.
    flags: as the command names them, such as "--model.width".
    ValueError names a flag that contradicts that flow, and both values.
    """
    where, start = _start(run_dir, init_from)
    if start is None:
        return config
    if start.kind is not config.kind:
        raise ParameterError(
            "init_from",
            f"{where} is a flow of {start.kind.value}, {config.name} is for {config.kind.value}",
        )
    asked, begun = asdict(config.model), dict[str, Any]()
    for name, there in asdict(start.model).items():
        word = name.replace("_", "-")
        named = {f"--model.{word}", f"--model.no-{word}"} & {*flags}
        if named and name == "dequantization" and is_richer(asked[name], there):
            begun[name] = asked[name]
        elif named and asked[name] != there:
            raise ParameterError(
                f"model.{name}",
                f"{asked[name]}, but {where} has {there}, and its weights fit nothing "
                f"{'simpler' if name == 'dequantization' else 'else'}; leave {named.pop()} out",
            )
    # How many numbers a condition has follows from the data.
    tuned = replace(
        config, model=replace(start.model, context_dim=config.model.context_dim, **begun)
    )
    try:
        return validate(tuned)
    except ValueError:
        if start.model.architecture == config.model.architecture:
            raise
        fitting = [
            name
            for name, preset in PRESETS.items()
            if (preset.data.set, preset.model.architecture)
            == (config.data.set, start.model.architecture)
        ]
        raise ParameterError(
            "init_from",
            f"{where} is a flow of the architecture {start.model.architecture}, which "
            f"{config.name} does not train; take the preset {' or '.join(fitting)}",
        ) from None


def _start(run_dir: Path, init_from: str | None) -> tuple[str, Config | None]:
    """What the training of this run directory starts with, and its configuration, if any."""
    if init_from is None and not (run_dir / "environment.json").exists():
        return "", None  # as mostly; without torch
    from realnvp.io.pretrained import load_config
    from realnvp.io.run_dir import RunDir

    files = RunDir(run_dir)
    if files.begun and files.config_file.exists():
        remembered = files.init_from
        return remembered or str(run_dir), files.config if remembered or init_from else None
    return (init_from, load_config(init_from)) if init_from else ("", None)


PLAIN = (
    "--background",
    "--color-mode",
    "--bit-depth",
    "--crop",
    "--resize",
)  # of other commands; here of data


@dataclass
class Train:
    """Train a flow, or go on with the training of the run directory: the same command again
    goes on where it stopped.

    Example: realnvp train photos --run-dir runs/photos

    Your own images: realnvp train images-modern --data.source my-folder --run-dir runs/mine

    Two processes: torchrun --nproc-per-node 2 -m realnvp train digits --run-dir runs/two
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Where everything goes; runs/PRESET when not given, with --config the folder of that file."""
    init_from: str | None = None
    """Fine-tuning: a run, saved flow, flow of the package or an id on the Hub. The training
    starts with its weights, and has its model, but for --model.dequantization, which may be named
    where it is learned later.
    """
    print_config: Flag = False
    """Print the configuration as JSON, and stop."""
    dry_run: Flag = False
    """Say what the training would take, and stop: the data found, parameters, memory, and the time
    by a few real steps; with --json also the whole configuration.
    """
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    @property
    def into(self) -> Path:
        """The run directory."""
        return self.run_dir or Path("runs", self.config.name)

    def __call__(self) -> int:
        config, run_dir = validate(self.config), self.into
        if self.print_config:
            print(to_json(config), end="")
            return 0
        setup_device(self.device, self.threads)
        main = os.environ.get("RANK", "0") == "0"  # one of several processes speaks for all
        if self.dry_run:
            from realnvp.training.forecast import rehearse

            found = rehearse(config, run_dir, device=self.device, init_from=self.init_from)
            if main:
                print_json(as_json(found)) if self.json else print_table(("", ""), page(found))
            return 0
        from realnvp.config.units import unit_of
        from realnvp.training.loop import train as run_training

        state = run_training(config, run_dir, device=self.device, init_from=self.init_from)
        if not main:
            return 0
        if self.json:
            print_json(asdict(state) | {"run_dir": str(run_dir)})
        else:
            best = (
                ""
                if state.best is None
                else f"; best validation {unit_of(config).words} {state.best:.3f} "
                f"at step {state.best_step}"
            )
            if state.best is not None and state.best_step == 0 < state.step:
                width = "" if self.init_from else "a smaller --model.width "
                note(
                    "realnvp: warning: validation was best before the first step, so training has "
                    f"not helped: more data, {width}or a lower --train.lr may"
                    + " (where values repeat: --data.noise 0.05)"
                    * (config.kind is Kind.TABLE)
                )
            budget = "minutes" if config.train.max_steps is None else "steps"
            say(
                f"{run_dir}: finished, step {state.step}{best}. "
                f"More {budget}: --train.max-{budget} N. "
                f"Next: {shlex.join(['realnvp', 'evaluate', str(run_dir)])}"
            )
        return 0


def train(argv: list[str]) -> int:
    """realnvp train PRESET ..., or realnvp train --config FILE ...

    The preset or the file gives the defaults of all flags.
    """
    run_dir = None
    argv = [f"--data.{word[2:]}" if word.partition("=")[0] in PLAIN else word for word in argv]
    argv = [
        part
        for word in argv
        for part in (word.split("=", 1) if word.startswith("--config=") else [word])
    ]
    if "--config" in argv:
        at = argv.index("--config")
        if at + 1 == len(argv):
            raise ValueError("--config: name a file, such as runs/photos/config.json")
        path = Path(argv[at + 1])
        config, prog, run_dir = read_config(path), "realnvp train --config FILE", path.parent
        rest = argv[:at] + argv[at + 2 :]
    elif argv and not argv[0].startswith("-"):
        if argv[0] not in PRESETS:
            raise ValueError(
                f"no preset {argv[0]!r}{nearest(argv[0], PRESETS)}; there are {', '.join(PRESETS)}"
            )
        config, prog, rest = PRESETS[argv[0]], f"realnvp train {argv[0]}", argv[1:]
    elif argv and argv[0] not in ("-h", "--help"):
        raise ValueError(
            f"train: name a preset before {argv[0]}, or --config FILE; "
            f"presets: {', '.join(PRESETS)}"
        )
    else:
        print("usage: realnvp train PRESET ...   or   realnvp train --config RUN/config.json ...\n")
        print(inspect.cleandoc(Train.__doc__ or ""), end="\n\n")
        print(
            f"Presets: {', '.join(PRESETS)}. "
            "All flags and their defaults: realnvp train PRESET --help"
        )
        return 0
    command = tyro.cli(Train, args=rest, prog=prog, default=Train(config, run_dir))
    named = {word.partition("=")[0].replace("_", "-") for word in rest}
    budgets = command.config.train
    if (
        budgets.max_minutes is not None
        and "--train.max-minutes" in named
        and "--train.max-steps" not in named
    ):
        command.config = replace(command.config, train=replace(budgets, max_steps=None))
    if run_dir is None:  # a preset; a file says which model it means
        command.config = with_model_of_start(command.config, command.into, command.init_from, named)
    return command()


def all_presets() -> Any:
    """A union type with a subcommand for each preset, for shell completion."""
    return reduce(
        or_,
        (
            Annotated[Train, tyro.conf.subcommand(name, default=Train(config))]
            for name, config in PRESETS.items()
        ),
    )
