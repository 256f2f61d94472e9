"""realnvp prepare, and realnvp train: a preset or a configuration file, and flags over it."""

import inspect
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import tyro

from realnvp.cli import options
from realnvp.config.fields import Config, PublishedSet
from realnvp.config.json import read_config, to_json
from realnvp.config.presets import PRESETS


@dataclass
class Prepare:
    """Turn the published files of a data set into the arrays that training reads.

    Example: realnvp prepare cifar10 --source cifar-10-binary.tar.gz --out data/cifar10
    """

    set: Annotated[PublishedSet, tyro.conf.Positional, tyro.conf.arg(metavar="SET")]
    """cifar10, imagenet32, imagenet64, celeba, lsun-bedroom, lsun-tower or lsun-church-outdoor."""
    source: Path
    """The downloaded archive, or a folder with the downloads."""
    out: Path
    """The folder to write; --data.source of a training."""
    allow_partial: options.Flag = False
    """Accept other files and numbers of images than published; the version says partial."""
    seed: int = 0
    """Seed of LSUN's 96x96 squares."""

    def __call__(self) -> int:
        from realnvp.data.published import PUBLISHED, write_published

        how: Any = {"allow_partial": self.allow_partial, "seed": self.seed}
        found = write_published(PUBLISHED[self.set], self.set, self.source, self.out, **how)
        counts = ", ".join(f"{split} {count:,}" for split, count in found.counts.items())
        print(f"{self.out}: {self.set} ({found.version}), {counts}")
        return 0


@dataclass
class Train(options.Command):
    """Train a flow, or resume the training of a run directory: repeat the command to go on where
    it stopped.

    Example: realnvp train photos --run-dir runs/photos

    Your own images: realnvp train images-modern --data.source my-folder --run-dir runs/mine

    Two processes: torchrun --nproc-per-node 2 -m realnvp train digits --run-dir runs/two
    """

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    run_dir: Path | None = None
    """Where everything goes; runs/PRESET when not given, with --config the folder of that file."""
    init_from: str | None = None
    """Fine-tuning: a run, a saved or pretrained flow, or an id on the Hub. The training starts with
    its weights and its model.
    """
    dry_run: options.Flag = False
    """Print the configuration as the data complete it, the parameters, and the seconds of a step
    by three steps, and stop.
    """
    device: options.Device = "auto"
    threads: options.Threads = None

    def __call__(self) -> int:
        from realnvp.evaluation.likelihood import unit_of
        from realnvp.training.loop import seconds_per_step
        from realnvp.training.loop import train as run_training

        options.setup_device(self.device, self.threads)
        how: Any = {"device": self.device, "init_from": self.init_from}
        if self.dry_run:
            config, parameters, seconds = seconds_per_step(self.config, **how)
            values = {"parameters": parameters, "seconds_per_step": seconds}
            text = f"{to_json(config)}{parameters:,} parameters, {seconds:.2g} s a step"
            self.show({"config": asdict(config), **values}, text)
            return 0
        run_dir = self.run_dir or Path("runs", self.config.name)
        state = run_training(self.config, run_dir, **how)
        if os.environ.get("RANK", "0") == "0":  # the first of several processes prints
            text = f"{run_dir}: finished, step {state.step}"
            if state.best is not None:
                words = unit_of(self.config).words
                text += f", best validation {words} {state.best:.3f} at step {state.best_step}"
            self.show(asdict(state) | {"run_dir": str(run_dir)}, text)
        return 0


def train(argv: Sequence[str]) -> int:
    """Run realnvp train PRESET ... or realnvp train --config FILE ...

    The preset or the file sets the defaults of all flags; `--init-from` sets the model's defaults.
    """
    if argv and argv[0] in PRESETS:
        prog, default, rest = f"realnvp train {argv[0]}", Train(PRESETS[argv[0]]), argv[1:]
    elif len(argv) > 1 and argv[0] == "--config":
        path = Path(argv[1])
        default = Train(read_config(path), run_dir=path.parent)
        prog, rest = "realnvp train --config FILE", argv[2:]
    elif not argv or argv[0] in ("-h", "--help"):
        print("usage: realnvp train PRESET ...   or   realnvp train --config RUN/config.json ...\n")
        print(f"{inspect.cleandoc(Train.__doc__ or '')}\n\nPresets: {', '.join(PRESETS)}")
        return 0
    else:
        raise ValueError(f"{argv[0]}: neither a preset ({', '.join(PRESETS)}) nor --config FILE")
    if init_from := _value_of("--init-from", rest):
        from realnvp.io.pretrained import load_config

        # The data decide about the model's context.
        context_dim = default.config.model.context_dim
        model = replace(load_config(init_from).model, context_dim=context_dim)
        default.config = replace(default.config, model=model)
    command = tyro.cli(Train, args=rest, prog=prog, default=default)
    if _value_of("--train.max-minutes", rest) and not _value_of("--train.max-steps", rest):
        recipe = replace(command.config.train, max_steps=None)
        command.config = replace(command.config, train=recipe)
    return command()


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    """The value of a flag on the command line: --flag value or --flag=value."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else following
    return None


def all_presets() -> Any:
    """A union type with a subcommand for each preset, for shell completion."""
    kinds: Any = [
        Annotated[Train, tyro.conf.subcommand(name, default=Train(config))]
        for name, config in PRESETS.items()
    ]
    return reduce(or_, kinds)
