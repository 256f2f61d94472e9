"""Which configurations make sense, in memory and as JSON."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from realnvp.config.errors import count_of, nearest
from realnvp.config.fields import (
    Config,
    DataConfig,
    Kind,
    ModelConfig,
    Shape,
    broken,
    flat,
    to_json,
)
from realnvp.config.presets import PRESETS

Record = TypeVar("Record")
WORDS = {
    float: "number",
    int: "integer",
    bool: "true or false",
    str: "text",
    types.NoneType: "null",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}


def parse_json(text: str | bytes, source: str | Path) -> Any:
    """What JSON text says; ValueError names the source."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not JSON: {error}") from None


def typed(kind: type[Record], value: Any, *, by_hand: bool = True) -> Record:
    """A value of JSON as a dataclass, list or dict of this kind: `typed(list[Point], [{"x": 1}])`.

    by_hand: people write it. Unknown fields are refused, and missing ones take their defaults.
    False: a program wrote it, perhaps a later version. Unknown fields are passed over, and none may
    be missing but those whose default is None.
    ValueError names the first field that is missing, unknown (with the nearest name) or of another
    type; OverflowError: an integer is too large for its float.
    """
    return _typed(kind, value, "", by_hand)


def _typed(kind: Any, value: Any, path: str, by_hand: bool) -> Any:
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        outer, inner = typing.get_origin(option) or option, typing.get_args(option)
        if dataclasses.is_dataclass(outer) and (isinstance(value, dict) or option is kind):
            return _record(outer, value, path, by_hand)
        if outer is float and type(value) is int:
            return float(value)
        if inner and outer is dict and isinstance(value, dict):
            return {
                key: _typed(inner[1], item, f"{path}.{key}" if path else key, by_hand)
                for key, item in value.items()
            }
        if inner and outer in (list, tuple) and isinstance(value, list):
            return outer(
                _typed(inner[0], item, f"{path}[{i}]", by_hand) for i, item in enumerate(value)
            )
        if outer is Any or type(value) is outer or (outer is Literal and value in inner):
            return value
    raise ValueError(f"{path or 'the top'}: {value!r} is not {' or '.join(map(_words, options))}")


def _record(kind: Any, tree: Any, path: str, by_hand: bool) -> Any:
    """The dataclass with the fields of a JSON object."""
    if not isinstance(tree, dict):
        raise ValueError(f"{path or 'the top'} must be an object, got {tree!r}")
    prefix, hints = path and f"{path}.", typing.get_type_hints(kind)
    unknown = next((name for name in tree if name not in hints), None)
    if by_hand and unknown is not None:
        raise ValueError(f"unknown field {prefix + unknown!r}{nearest(unknown, hints)}")
    for item in dataclasses.fields(kind):
        has_default = item.default is not item.default_factory  # else both are MISSING
        if item.name not in tree and item.default is not None and not (by_hand and has_default):
            raise ValueError(f"{prefix}{item.name} is missing")
    return kind(
        **{
            name: _typed(hints[name], value, prefix + name, by_hand)
            for name, value in tree.items()
            if name in hints
        }
    )


def _words(option: Any) -> str:
    if typing.get_origin(option) is Literal:
        return " or ".join(map(repr, typing.get_args(option)))
    return WORDS.get(typing.get_origin(option) or option, "an object")


MISSING = "(missing)"
"""What a missing text counts as, where missing values are marked."""


@dataclass(frozen=True)
class GivenColumn:
    """One column of a condition."""

    name: str
    texts: tuple[str, ...] = ()
    """What it may say. (): it holds numbers."""
    ordered: bool = False
    """Whether a text is one number, its place in `texts`, and not one number for each of them."""
    mean: float | None = None
    """The number that stands for a missing one, beside a mark. None: none may be missing."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers that a value becomes."""
        if self.texts and not self.ordered:
            return tuple(f"{self.name}={text}" for text in self.texts)
        return (self.name, f"{self.name} is missing") if self.mean is not None else (self.name,)

    def as_text(self) -> str:
        """The column without its name, as `data.context_values` has it."""
        if self.texts:
            return json.dumps({"ordered": self.texts} if self.ordered else self.texts)
        return json.dumps(self.mean)

    @classmethod
    def parse(cls, name: str, text: str) -> "GivenColumn":
        """The column of such a text. ValueError: it is none."""
        value = json.loads(text)
        if value is None or type(value) in (int, float):
            return cls(name, mean=None if value is None else float(value))
        ordered = isinstance(value, dict) and {*value} == {"ordered"}
        texts = value["ordered"] if ordered else value
        if not (isinstance(texts, list) and texts and all(type(each) is str for each in texts)):
            raise ValueError(f"{text[:40]!r}: neither a number nor texts")
        if len({*texts}) < len(texts):
            raise ValueError(f"{text[:40]!r}: a text twice")
        return cls(name, tuple(texts), ordered)


def context_columns_of(
    names: tuple[str, ...] | None, values: tuple[str, ...] | None
) -> tuple[GivenColumn, ...]:
    """The columns of `data.context_columns` and `data.context_values`. ValueError: they make no sense."""
    if len(names or ()) != len(values or ()):
        raise ValueError("has another length than data.context_columns")
    return tuple(map(GivenColumn.parse, names or (), values or ()))


def embed_context(columns: tuple[GivenColumn, ...]) -> tuple[str, ...]:
    """Names of all numbers that the columns' values become."""
    return tuple(name for column in columns for name in column.numbers)


def order_of(words: str) -> tuple[str, tuple[str, ...]]:
    """("cut", ("Fair", "Good")) of "cut: Fair < Good". ValueError: it is of another form."""
    name, colon, texts = words.partition(":")
    order = tuple(text.strip() for text in texts.split("<"))
    if not colon or len(order) < 2 or not all(order) or len({*order}) < len(order):
        raise ValueError("must be like 'cut: Fair < Good < Ideal'")
    return name.strip(), order


# A hundred times the paper's largest model; to build more is a mistake, or an attack.
MOST_PARAMETERS = 10**10
# Thirty times the largest preset's. Even a block of small matrices takes 14 kB and .3 ms.
MOST_BLOCKS = 4000


def resolve(
    config: Config,
    shape: Shape,
    columns: tuple[str, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
    decided: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """The configuration with the shape, columns or classes and the number of scales filled in.

    decided: fields of data that the data decide where the configuration leaves them open.

    ValueError names the field where the data and the configuration disagree.
    """
    if config.data.shape not in (None, shape):
        raise ValueError(
            f"data.shape: the configuration says {config.data.shape}, the data are {shape}"
        )
    if (len(shape) == 1) != (config.model.architecture == "vector"):
        raise ValueError(
            f"model.architecture: {config.model.architecture} does not fit data of shape {shape}"
        )
    scales = config.model.num_scales or default_num_scales(shape)
    if config.model.architecture == "modern" and not config.model.num_scales:
        scales = max(1, scales - 1)  # its last scale is at half the resolution, too
    if "context_columns" in decided:  # names that "a,b" had stood for
        config = replace(
            config, data=replace(config.data, context_columns=decided["context_columns"])
        )
    left_open = {
        name: value
        for name, value in decided.items()
        if getattr(config.data, name) == getattr(DataConfig, name)
    }
    # The columns of the data are those that are left: drop is done.
    data = replace(
        config.data, shape=shape, columns=columns or config.data.columns, drop=None, **left_open
    )
    model = replace(config.model, num_scales=scales)
    if data.classes:
        class_names = data.class_names or class_names
        if not class_names:
            raise ValueError(
                "data.class_names: the data decide them; give the names of the classes"
            )
        data = replace(data, class_names=class_names)
        model = replace(model, context_dim=len(class_names))
    if data.context_columns and data.context_values:
        columns_given = context_columns_of(data.context_columns, data.context_values)
        model = replace(model, context_dim=len(embed_context(columns_given)))
    if not model.context_dim:
        model = replace(model, given_every=1)  # without a condition all models are alike
    config = replace(config, data=data, model=model)
    if len(shape) == 3:
        check_divisible(shape, config.model)
    if data.turn and shape[1] != shape[2]:
        raise ValueError(f"data.turn: is for square images, the data are {shape}")
    if (least := least_parameters(config)) > MOST_PARAMETERS:
        raise ValueError(
            f"model.width: {config.model.width} with {scales} scales and data of shape {shape} "
            f"needs more than {least:.0e} parameters{_or_crops(config)}"
        )
    return config


def _or_crops(config: Config) -> str:
    """'; or pieces of them: data.crop 64' where that can be done."""
    whole = config.data.set == "images" and not config.data.crop and len(config.shape) == 3
    return "; or pieces of them: data.crop 64" if whole and min(config.shape[1:]) > 64 else ""


def count_blocks(config: Config) -> int:
    """Residual blocks of all networks; a network's first and last layer count as one more block.

    If neither the configuration nor its shape decides the number of scales: of a single scale.
    """
    model, shape = config.model, config.data.shape
    scales = model.num_scales or (default_num_scales(shape) if shape else 1)
    return (1 + model.num_blocks) * (
        sum(count for _, _, count in _networks(replace(model, num_scales=scales)))
        + (model.dequantization != "uniform")
    )


def least_parameters(config: Config) -> int:
    """A lower bound on a (resolved) configuration's parameters: networks and mixings of columns."""
    model, channels = config.model, (config.data.shape or (1,))[0]
    if model.architecture == "vector" and channels == 1 and model.context_dim:  # is one spline
        model = replace(model, num_couplings=1)
    mixings = (model.num_couplings + 1) // 2 if model.architecture == "vector" else 0
    total = mixings * channels**2  # of all columns
    for scale, width, count in _networks(model):
        # Channels double with each scale; a block is two layers.
        if model.architecture == "paper":
            ends, block = width**2 + 19 * channels * 2**scale * width, 19 * width**2
        elif model.architecture == "modern":
            ends, block = 36 * channels * 2**scale * width, 18 * width**2
        else:
            ends, block = 2 * channels * width, 2 * width**2
        total += count * (ends + model.num_blocks * block)
    return total


def _networks(model: ModelConfig) -> list[tuple[int, int, int]]:
    """(scale, width, count) of the networks of a (resolved) model's couplings."""
    if model.architecture == "vector":
        return [(0, model.width, model.num_couplings)]
    found, scales = [], model.num_scales or 1
    for scale in range(scales):
        last = scale == scales - 1
        if model.architecture == "modern":
            # One more coupling makes the prior of the half that is factored out.
            found.append((scale, model.width, model.num_couplings + (not last)))
        else:
            found.append((scale, model.width, 4 if last else 3))
        if not last:
            model = coarser(model)
            if model.architecture == "paper":
                found.append((scale + 1, model.width, 3))
    return found


def coarser(model: ModelConfig) -> ModelConfig:
    """The (resolved) model from the next scale on, with the width and couplings of that scale."""
    assert model.num_scales is not None
    return replace(
        model,
        num_scales=model.num_scales - 1,
        width=max(1, int(model.growth * model.width)),
        num_couplings=max(1, int(model.coupling_decay * model.num_couplings)),
    )


def default_num_scales(shape: Shape) -> int:
    """1 for vectors; for images, halve them until a side is odd or 4 pixels (section 4.1).

    The scales are one more than the halvings.
    """
    if len(shape) == 1:
        return 1
    side, scales = min(shape[1:]), 1
    while side >= 8 and all(length % 2**scales == 0 for length in shape[1:]):
        side, scales = side // 2, scales + 1
    return scales


def smallest_side(model: ModelConfig) -> int:
    """The least side that a (resolved) model's scales allow; other sides are its multiples."""
    assert model.num_scales is not None
    return 1 << model.num_scales - (model.architecture == "paper")


def check_divisible(shape: Sequence[int], model: ModelConfig) -> None:
    """ValueError if height or width is no multiple of what the (resolved) model's scales need."""
    factor, (height, width) = smallest_side(model), shape[-2:]
    if height % factor or width % factor or not height or not width:
        raise ValueError(
            f"images of {height}x{width}: {count_of(model.num_scales or 0, 'scale')} "
            f"need{'s' * (model.num_scales == 1)} "
            f"a height and width divisible by {factor} (model.num_scales)"
        )


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
    levels, gray = data.levels or 256, data.shape is not None and data.shape[0] == 1
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
                "model.context_dim",
                data.class_names is None or model.context_dim in (0, len(data.class_names)),
                "is not the number of data.class_names",
            ),
            (
                "model.context_dim",
                not images or data.classes or not model.context_dim,
                "needs data.classes",
            ),
            (
                "data.classes",
                not (data.classes and data.context_columns),
                "does not go with data.context_columns",
            ),
            ("data.drop", data.drop is None or not images, "is for tables"),
            ("data.noise", not data.noise or not images, "is for tables"),
            ("data.context_columns", data.context_columns is None or not images, "is for tables"),
            *(
                (
                    f"data.{name}",
                    getattr(data, name) in (None, "refuse") or data.context_columns,
                    words,
                )
                for name in ("context_values", "ordered", "missing")
                for words in ["needs data.context_columns"]
            ),
            ("data.context_values", *_parsed(data.context_columns, data.context_values)),
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
                "model.dequantization",
                model.dequantization == "uniform" or model.architecture == "modern",
                "is for modern models",
            ),
            (
                "model.dequantization",
                model.dequantization != "oblique" or 2 * model.alpha * (levels + 1) > 1 or gray,
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


def _parsed(context: Columns, values: Columns) -> tuple[bool, str]:
    """Whether data.context_values makes sense, and what is wrong."""
    try:
        context_columns_of(context if values else None, values)
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
