"""realnvp train: a preset or a file, and flags over it."""

import inspect
import os
import shlex
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import tyro

from realnvp.cli.fine_tune import with_model_of_start
from realnvp.cli.inputs import settle
from realnvp.cli.options import Device, Flag, Json, Threads, parse
from realnvp.cli.output import note, print_json, print_table, say
from realnvp.config import PRESETS, Config, Kind, nearest, read_config, to_json, validate

PLAIN = (
    "--background",
    "--colours",
    "--depth",
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
    starts with its weights, and has its model, but for --model.dequantisation, which may be named
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
        settle(self.device, self.threads)
        main = os.environ.get("RANK", "0") == "0"  # one of several processes speaks for all
        if self.dry_run:
            from realnvp.cli.rehearsal import as_json, page
            from realnvp.training.rehearsal import rehearse

            found = rehearse(config, run_dir, device=self.device, init_from=self.init_from)
            if main:
                print_json(as_json(found)) if self.json else print_table(("", ""), page(found))
            return 0
        from realnvp.config.units import unit_of
        from realnvp.training.train import train as run_training

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
    command = parse(Train, rest, prog=prog, default=Train(config, run_dir))
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
