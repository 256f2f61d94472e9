"""Which configurations make sense, in memory and as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

from realnvp.config.bounds import broken
from realnvp.config.fields import Config, Kind, Shape, flat, to_json
from realnvp.config.given import given_columns, order_of
from realnvp.config.presets import PRESETS
from realnvp.config.sizes import MOST_BLOCKS, count_blocks
from realnvp.config.typed import parse_json, typed
from realnvp.config.words import nearest

Columns = tuple[str, ...] | None
SETS = {preset.data.set for preset in PRESETS.values()}


def validate(config: Config) -> Config:
    """The configuration, whose numbers of numpy's become Python's.

    ValueError names the first field whose value makes no sense.
    """
    config = typed(Config, json.loads(to_json(config)))
    for path, complaint in (*broken(config), *_contradictions(config)):
        raise ValueError(f"{path}: {flat(config)[path]!r} {complaint}")
    # Last, since a count needs numbers that are within their bounds.
    if (count := count_blocks(config)) > MOST_BLOCKS:
        model = config.model
        raise ValueError(
            f"model.num_blocks: {model.num_blocks} "
            f"with model.num_couplings = {model.num_couplings} "
            f"and model.num_scales = {model.num_scales} "
            f"makes {count:,} blocks, more than {MOST_BLOCKS:,}"
        )
    return config


def _contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """The fields that do not fit others, and why."""
    data, model, train = config.data, config.model, config.train
    images, vector = config.kind is Kind.IMAGES, model.architecture == "vector"
    levels, grey = data.levels or 256, data.shape is not None and data.shape[0] == 1
    return (
        (path, complaint)
        for path, holds, complaint in [
            ("name", config.name in PRESETS, f"is no preset{nearest(config.name, PRESETS)}"),
            ("data.set", data.set in SETS, f"is no data set{nearest(data.set, SETS)}"),
            ("data.levels", images != vector, f"does not fit {model.architecture!r} models"),
            (
                "data.shape",
                not images or not data.shape or not _channels_last(data.shape),
                "looks like (height, width, channels); channels come first: "
                f"shape=({', '.join(map(str, (data.shape or ())[-1:] + (data.shape or ())[:-1]))})",
            ),
            ("data.columns", data.columns is None or not images, "is for tables"),
            (
                "data.class_names",
                data.class_names is None or data.classes,
                "needs data.classes",
            ),
            (
                "model.given",
                data.class_names is None or model.given in (0, len(data.class_names)),
                "is not the number of data.class_names",
            ),
            ("model.given", not images or data.classes or not model.given, "needs data.classes"),
            ("data.classes", not (data.classes and data.given), "does not go with data.given"),
            ("data.drop", data.drop is None or not images, "is for tables"),
            ("data.noise", not data.noise or not images, "is for tables"),
            ("data.given", data.given is None or not images, "is for tables"),
            *(
                (f"data.{name}", getattr(data, name) in (None, "refuse") or data.given, words)
                for name in ("given_values", "ordered", "missing")
                for words in ["needs data.given"]
            ),
            ("data.given_values", *_parsed(data.given, data.given_values)),
            ("data.ordered", *_parsed_orders(data.ordered)),
            *(
                (f"data.{name}", data.set == "images" or value is None, "is for your own images")
                for name, value in {
                    **data.reading._asdict(),
                    "crop": data.crop,
                    "resize": data.resize,
                }.items()
            ),
            ("data.flip", images or not data.flip, "is for images"),
            ("data.turn", images or not data.turn, "is for images"),
            ("data.recolour", images or not data.recolour, "is for images"),
            ("data.brighten", images or not data.brighten, "is for images"),
            (
                "model.dequantisation",
                model.dequantisation == "uniform" or model.architecture == "modern",
                "is for modern models",
            ),
            (
                "model.dequantisation",
                model.dequantisation != "oblique" or 2 * model.alpha * (levels + 1) > 1 or grey,
                f"needs model.alpha above 1 / {2 * levels + 2}, since its cells reach half a level "
                f"beyond all levels; it is {model.alpha}",
            ),
            (
                "model.coupling",
                model.coupling != "spline" or vector,
                "is for vector models",
            ),
            ("model.calibrated", vector or not model.calibrated, "is for vector models"),
            (
                "train.max_steps",
                bool(train.max_steps or train.max_minutes),
                "needs train.max_minutes",
            ),
            (
                "train.muon_lr",
                train.muon_lr is None or model.architecture != "paper",
                "is for modern and vector models",
            ),
            (
                "train.muon_weight_decay",
                not train.muon_weight_decay or train.muon_lr is not None,
                "needs train.muon_lr",
            ),
            (
                "train.muon_weight_decay",
                0 <= train.muon_weight_decay * (train.muon_lr or 1) < 1,
                "must be in [0, 1 / train.muon_lr)",
            ),
        ]
        if not holds
    )


def _parsed(given: Columns, values: Columns) -> tuple[bool, str]:
    """Whether data.given_values makes sense, and what is wrong."""
    try:
        given_columns(given if values else None, values)
    except (ValueError, TypeError) as error:
        return False, str(error)
    return True, ""


def _parsed_orders(words: Columns) -> tuple[bool, str]:
    """Whether data.ordered makes sense, and what is wrong."""
    try:
        return len(dict(map(order_of, words or ()))) == len(words or ()), "has a column twice"
    except ValueError as error:
        return False, str(error)


def _channels_last(shape: Shape) -> bool:
    return len(shape) == 3 and min(shape[:2]) > 4 and shape[2] in (1, 3)


def from_json(text: str | bytes, source: str | Path = "config") -> Config:
    """The configuration in this JSON text.

    ValueError names the source, and the field that is unknown (with the nearest name), of another
    type or senseless.
    """
    tree = parse_json(text, source)
    try:
        return validate(typed(Config, tree))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{source}: {error}") from None


def read_config(path: Path) -> Config:
    """The configuration in a JSON file; ValueError or OSError names the file, and the bad field."""
    return from_json(path.read_bytes(), path)
