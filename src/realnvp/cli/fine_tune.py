"""Fine-tuning from the command line: the model section comes from the flow that a training starts
with.
"""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from realnvp.config import PRESETS, Config, validate
from realnvp.config.errors import ParameterError
from realnvp.config.fields import is_richer


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
        if named and name == "dequantisation" and is_richer(asked[name], there):
            begun[name] = asked[name]
        elif named and asked[name] != there:
            raise ParameterError(
                f"model.{name}",
                f"{asked[name]}, but {where} has {there}, and its weights fit nothing "
                f"{'simpler' if name == 'dequantisation' else 'else'}; leave {named.pop()} out",
            )
    # How many numbers a condition has follows from the data.
    tuned = replace(config, model=replace(start.model, given=config.model.given, **begun))
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
    from realnvp.files.run_dir import RunDir
    from realnvp.files.saved import load_config

    files = RunDir(run_dir)
    if files.begun and files.config_file.exists():
        remembered = files.init_from
        return remembered or str(run_dir), files.config if remembered or init_from else None
    return (init_from, load_config(init_from)) if init_from else ("", None)
