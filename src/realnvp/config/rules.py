"""Which configurations make sense, in memory and as JSON."""

import json
from pathlib import Path

from realnvp.config.fields import EVERY, TRACKERS, Config, flat, to_json
from realnvp.config.presets import PRESETS
from realnvp.config.sizes import MOST_BLOCKS, count_blocks
from realnvp.config.typed import parse_json, typed
from realnvp.config.words import nearest

SETS = {preset.data.set for preset in PRESETS.values()}


def validate(config: Config) -> Config:
    """The same configuration; ValueError names the first field whose value makes no sense."""
    typed(Config, json.loads(to_json(config)))  # of the right types?
    data, model, train = config.data, config.model, config.train
    rules = [
        ("name", config.name in PRESETS, f"is no preset{nearest(config.name, PRESETS)}"),
        ("train.tracker", train.tracker in TRACKERS, f"must be one of {', '.join(TRACKERS)}"),
        ("seed", 0 <= config.seed < 2**63, "must be between 0 and 2^63 - 1"),
        ("data.set", data.set in SETS, f"is no data set{nearest(data.set, SETS)}"),
        ("data.shape", data.shape is None or len(data.shape) in (1, 3), "must be one or three integers"),
        ("data.shape", data.shape is None or 0 < min(data.shape) <= max(data.shape) <= 65536, "must be between 1 and 65536"),
        ("data.levels", data.levels is None or 2 <= data.levels <= 256, "must be between 2 and 256"),
        ("data.levels", (data.levels is None) == (model.architecture == "vector"), f"does not fit {model.architecture!r} models"),
        ("data.columns", data.columns is None or len({*data.columns}) == len(data.columns), "must be different names"),
        ("data.columns", data.columns is None or data.levels is None, "is for tables"),
        ("data.flip", not data.flip or data.levels is not None, "is for images"),
        ("data.turn", not data.turn or data.levels is not None, "is for images"),
        ("data.recolour", not data.recolour or data.levels is not None, "is for images"),
        ("data.held_out", 0 < data.held_out < 0.5, "must be between 0 and 0.5"),
        ("model.num_scales", model.num_scales is None or 1 <= model.num_scales <= 16, "must be between 1 and 16"),
        ("model.width", 1 <= model.width <= 4096, "must be between 1 and 4096"),
        ("model.growth", 0.25 <= model.growth <= 4, "must be between 0.25 and 4"),
        ("model.num_blocks", 0 <= model.num_blocks <= 1000, "must be between 0 and 1000"),
        ("model.num_couplings", 1 <= model.num_couplings <= 1000, "must be between 1 and 1000"),
        ("model.coupling_growth", 0 < model.coupling_growth <= 1, "must be more than 0 and at most 1"),
        ("model.frequency", 0 <= model.frequency <= 1000, "must be between 0 and 1000"),
        ("model.dequantisation", model.dequantisation == "uniform" or model.architecture == "modern", "is for modern models"),
        ("model.momentum", 0 <= model.momentum < 1, "must be in [0, 1)"),
        ("model.alpha", 0 < model.alpha < 0.5, "must be between 0 and 0.5"),
        ("train.lr", 0 < train.lr < float("inf"), "must be positive"),
        ("train.max_steps", train.max_steps is not None or train.max_minutes is not None, "needs train.max_minutes"),
        ("train.max_steps", train.max_steps is None or train.max_steps >= 1, "must be at least 1"),
        ("train.max_minutes", train.max_minutes is None or 0 < train.max_minutes < 1e9, "must be positive"),
        ("train.muon_lr", train.muon_lr is None or 0 < train.muon_lr < float("inf"), "must be positive"),
        ("train.muon_lr", train.muon_lr is None or model.architecture != "paper", "is for modern and vector models"),
        ("train.muon_weight_decay", not train.muon_weight_decay or train.muon_lr is not None, "needs train.muon_lr"),
        ("train.muon_weight_decay", 0 <= train.muon_weight_decay * (train.muon_lr or 1) < 1, "must be in [0, 1 / train.muon_lr)"),
        ("train.warmup", train.warmup >= 0, "must not be negative"),
        ("train.decay", 0 <= train.decay <= 1, "must be between 0 and 1"),
        ("train.average", 0 <= train.average < 1, "must be in [0, 1)"),
        ("train.clip", train.clip > 0, "must be positive"),
        ("train.clip_factor", train.clip_factor is None or train.clip_factor > 1, "must be more than 1"),
        ("train.skip_factor", train.skip_factor is None or train.skip_factor > 1, "must be more than 1"),
        ("train.l2", 0 <= train.l2 < float("inf"), "must not be negative"),
        ("train.timeout", 0 < train.timeout < 1e7, "must be positive"),
        ("train.patience", train.patience >= 0, "must not be negative"),
    ]
    counts = ("batch_size", "moment_batches", *EVERY)
    rules += [(f"train.{name}", getattr(train, name) >= 1, "must be at least 1") for name in counts]
    for path, holds, complaint in rules:
        if not holds:
            raise ValueError(f"{path}: {flat(config)[path]!r} {complaint}")
    if (count := count_blocks(config)) > MOST_BLOCKS:  # only now is each number one that can be counted with
        others = f"model.num_couplings = {model.num_couplings} and model.num_scales = {model.num_scales}"
        raise ValueError(f"model.num_blocks: {model.num_blocks} with {others} makes {count:,} blocks, more than {MOST_BLOCKS:,}")
    return config


def from_json(text: str | bytes, source: str | Path = "config") -> Config:
    """The configuration in this JSON text.

    ValueError names the source and the field that is unknown (with the nearest name) or of another type.
    """
    tree = parse_json(text, source)
    try:
        return validate(typed(Config, tree))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{source}: {error}") from None


def read_config(path: Path) -> Config:
    """The configuration in a JSON file; ValueError or OSError names the file, and the field that makes no sense."""
    return from_json(path.read_bytes(), path)
