"""What to train on what: frozen dataclasses, the presets, and their JSON. Never imports torch."""

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Shape = tuple[int, ...]
"""(C, H, W) of images, (D,) of vectors."""


@dataclass(frozen=True)
class DataConfig:
    """The images, or the table."""

    set: str = "images"
    """Name of the data set: photos, digits, images, table, cifar10, imagenet32, ..."""
    source: str | None = None
    """Folder of images, .npy file, table (.csv, .npy, .parquet), or prepared folder; photos and digits need none."""
    shape: Shape | None = None
    """Channels, height, width of images, or how many columns a table has; taken from the data when not given."""
    columns: tuple[str, ...] | None = None
    """Names of the columns of a table to take; all when not given."""
    levels: int | None = 256
    """Grey levels of a channel; pixels are 0 .. levels - 1. None: real numbers, a table."""
    flip: bool = False
    """Mirror training images left to right, half of the time; never in evaluation."""
    turn: bool = False
    """Turn training images, which must be square, by a random number of quarter turns; never in evaluation."""
    recolour: bool = False
    """Put the channels of training images into random order; never in evaluation."""
    held_out: float = 0.1
    """Share of the training images (rows) cut off for validation, and for test, where the source has no such split."""


@dataclass(frozen=True)
class ModelConfig:
    """The flow (section 3 of the paper)."""

    architecture: Literal["paper", "modern", "vector"] = "paper"
    """paper: section 3, for images; modern: what later flows found; vector: fully connected networks, for tables and points."""
    coupling: Literal["affine", "additive"] = "affine"
    """affine: Real NVP (eq 4-9); additive: NICE, the paper's predecessor."""
    num_scales: int | None = None
    """Scales of the recursion (section 3.6); None: until the last one is 4 pixels high or wide."""
    width: int = 32
    """Feature maps of the networks at the first scale."""
    growth: float = 2.0
    """By what the width grows at each further scale; the paper's doubles."""
    num_blocks: int = 4
    """Residual blocks of each network."""
    num_couplings: int = 8
    """modern: how many couplings at the first scale; vector: how many in all."""
    coupling_growth: float = 1.0
    """modern: which share of the couplings each further scale has of the one before, rounded down; one at least."""
    frequency: float = 0.0
    """vector: half of the networks' first units are sines, with weights of this deviation / D at the start; 0: none."""
    batch_norm: bool = False
    """vector: whether batch norm (section 3.7) follows each coupling; the paper's images always have it."""
    momentum: float = 0.0
    """rho of eq 15-16 in training; 0: plain batch statistics."""
    alpha: float = 0.05
    """Pixels are squeezed into [alpha, 1 - alpha] before the logit (section 4.1)."""


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation (section 4.1), and what is written when."""

    max_steps: int = 200_000
    """Steps of the optimiser."""
    max_minutes: float | None = None
    """Minutes of training over all sittings, evaluations not counted; what comes first, these or max_steps, ends it."""
    batch_size: int = 64
    """Images of a step, over all processes together; of a table rows, and all of them where there are fewer."""
    lr: float = 1e-3
    """Adam's learning rate; its other settings are the defaults, as in the paper."""
    muon_lr: float | None = None
    """Learning rate of Muon for those weights of the networks that are matrices (modern, vector); None: Adam for all."""
    muon_weight_decay: float = 0.0
    """Each step multiplies Muon's matrices by 1 - learning rate x this."""
    warmup: int = 0
    """Steps over which the learning rate rises to lr."""
    decay: float = 0.0
    """Share of the training, its last part, over which the learning rate falls to 0, along a cosine."""
    average: float = 0.0
    """Evaluations, samples and models use a moving average of the weights that keeps this share each step; 0: the weights."""
    clip: float = 100.0
    """Largest global norm of the gradient of the loss in nats per image."""
    clip_factor: float | None = None
    """Largest norm of the gradient beside the typical one of the steps before; None: clip alone decides."""
    skip_factor: float | None = None
    """A step whose gradient's norm is more times the typical one than this changes nothing; None: each that is finite counts."""
    l2: float = 5e-5
    """Weight of the penalty on the gains of the weight norm and on the checkerboard couplings' bounds."""
    precision: Literal["float32", "bfloat16", "auto", "float64"] = "float32"
    """Arithmetic of the networks; auto: bfloat16 where the device is faster with it, else float32. With bfloat16 the state
    z and the log-det stay float32, and evaluation does without."""
    recompute: bool = False
    """Keep only the couplings' inputs for the gradient and compute the rest again: less memory, about a third more time."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = 1000
    """Steps between two evaluations on the validation split."""
    eval_images: int = 1000
    """At most so many validation images, or rows, are used for choosing the best model."""
    sample_every: int = 1000
    """Steps between two grids of samples."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    patience: int = 0
    """Stop after so many evaluations without a better one; 0: never."""
    moment_batches: int = 50
    """Training batches over which batch norm's moments are re-estimated before an evaluation."""
    timeout: float = 1800.0
    """Seconds that one of several processes waits for another, also for its preparation of the data, before it gives up."""
    tracker: str = "tensorboard"
    """Where curves go beside metrics.jsonl: tensorboard, wandb or another tracker of `TRACKERS`, or none."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a training."""

    name: str = "images"
    """The preset that this configuration started from."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: int = 0
    """Seed of weights, splits, batch order and noise."""


# On resume these may differ from the run's; any other changed field is another training.
_EVERY = ("log_every", "eval_every", "eval_images", "sample_every", "save_every")
_BUDGET = ("max_steps", "max_minutes", "patience", "timeout", "tracker", "recompute")
MAY_CHANGE = frozenset(f"train.{name}" for name in (*_BUDGET, *_EVERY))

_CIFAR10 = Config(
    "cifar10",
    DataConfig("cifar10", shape=(3, 32, 32), flip=True),
    ModelConfig(num_scales=2, width=64, num_blocks=8, momentum=0.9),
)
_IMAGENET32 = Config("imagenet32", DataConfig("imagenet32", shape=(3, 32, 32), held_out=0.01), ModelConfig(num_scales=4))
_IMAGENET64 = Config(
    "imagenet64", DataConfig("imagenet64", shape=(3, 64, 64), held_out=0.01), ModelConfig(num_scales=5, num_blocks=2)
)


def _like_imagenet64(name: str) -> Config:
    return replace(_IMAGENET64, name=name, data=replace(_IMAGENET64.data, set=name, flip=True))


_SHORT = TrainConfig(max_steps=2000, batch_size=32, eval_every=250, sample_every=250, save_every=250)
# Minutes, not days: a higher rate and hardly a clip are worth .1 bits/dim by then (docs/experiments.md).
_MINUTES = replace(_SHORT, max_steps=1500, batch_size=16, lr=2e-3, clip=1e4, eval_every=300, sample_every=300, save_every=300)

_TABLE = replace(
    _SHORT,
    max_steps=4000,
    batch_size=512,
    lr=5e-3,
    warmup=50,
    decay=1.0,
    clip=10.0,
    l2=0.0,
    eval_every=100,
    eval_images=10_000,  # the best model is better than the next by less than .01 nats: a thousand rows would choose by luck
)

TRACKERS = ("none", "tensorboard", "wandb", "comet_ml", "mlflow", "aim", "clearml", "dvclive")
# A hundred times the paper's largest model; to build more is a mistake, or an attack.
MOST_PARAMETERS = 10**10

PRESETS: dict[str, Config] = {
    "cifar10": _CIFAR10,
    "imagenet32": _IMAGENET32,
    "imagenet64": _IMAGENET64,
    "celeba": _like_imagenet64("celeba"),
    "lsun-bedroom": _like_imagenet64("lsun-bedroom"),
    "lsun-tower": _like_imagenet64("lsun-tower"),
    "lsun-church-outdoor": _like_imagenet64("lsun-church-outdoor"),
    "photos": Config(
        "photos",
        DataConfig("photos", shape=(3, 32, 32), flip=True),
        ModelConfig(num_scales=4, width=16, num_blocks=2),
        _MINUTES,
    ),
    "digits": Config("digits", DataConfig("digits", shape=(1, 8, 8), levels=17), ModelConfig(num_scales=2, num_blocks=2), _SHORT),
    "images": Config(train=_SHORT),
    "table": Config(
        "table",
        DataConfig("table", levels=None),
        ModelConfig("vector", num_couplings=16, num_blocks=1, width=64, frequency=6.0),
        _TABLE,
    ),
}

# What later flows found, for the same minutes (docs/experiments.md): not the paper's.
_MODERN = ModelConfig("modern", width=48, growth=1.5, num_blocks=1, num_couplings=6)
_FINE = {"growth": 2.0, "num_couplings": 9, "coupling_growth": 0.35}  # most couplings where most of the bits are
_DECAYED = replace(_SHORT, muon_weight_decay=0.1)


def _modernised(paper: Config, train: TrainConfig, **model: Any) -> Config:
    recipe = replace(
        train,
        precision="auto",
        lr=5e-3,
        muon_lr=0.02,
        warmup=50,
        decay=0.5,
        average=0.998,
        clip=1e4,
        skip_factor=10.0,
        l2=0.0,
    )
    return replace(paper, name=f"{paper.name}-modern", model=replace(_MODERN, **model), train=recipe)


PRESETS |= {
    f"{name}-modern": _modernised(PRESETS[name], train, **model)
    for name, train, model in (
        (
            "photos",
            replace(_DECAYED, max_steps=1500, eval_every=300, sample_every=300, save_every=300),
            {"num_scales": 3} | _FINE,
        ),
        ("digits", _DECAYED, {"num_scales": 1, "width": 32}),
        ("images", _DECAYED, _FINE),
        ("cifar10", TrainConfig(), {"num_scales": 3, "width": 128, "num_couplings": 12}),
        ("imagenet32", TrainConfig(), {"num_scales": 3, "width": 160, "num_couplings": 16}),
        ("imagenet64", TrainConfig(), {"num_scales": 4, "width": 128, "num_couplings": 16}),
    )
}

# Bits/dim of the paper: Table 1, and for the 64x64 sets without a number there, its later version (2017).
PAPER: dict[str, float] = {
    "cifar10": 3.49,
    "imagenet32": 4.28,
    "imagenet64": 4.01,
    "celeba": 3.02,
    "lsun-bedroom": 2.72,
    "lsun-tower": 2.81,
    "lsun-church-outdoor": 3.08,
}


def departures(config: Config) -> list[str]:
    """Dotted names of the fields that make this another experiment than the paper's on its data set; none where there is none."""
    if config.data.set not in PAPER:
        return []
    free = MAY_CHANGE | {"name", "seed", "data.source", "data.held_out"}  # the paper says nothing of these
    return [field for field in differences(PRESETS[config.data.set], config) if field not in free]


def paper_bits_per_dim(config: Config) -> float | None:
    """The paper's bits/dim for this configuration; None where the paper has none or the configuration departs from it."""
    return None if departures(config) else PAPER.get(config.data.set)


def resolve(config: Config, shape: Shape, columns: tuple[str, ...] | None = None) -> Config:
    """The configuration with the shape, a table's columns and the number of scales filled in.

    ValueError names the field where the data and the configuration disagree.
    """
    if config.data.shape not in (None, shape):
        raise ValueError(f"data.shape: the configuration says {config.data.shape}, the data are {shape}")
    if (len(shape) == 1) != (config.model.architecture == "vector"):
        raise ValueError(f"model.architecture: {config.model.architecture} does not fit data of shape {shape}")
    scales = config.model.num_scales or default_num_scales(shape)
    if config.model.architecture == "modern" and not config.model.num_scales:
        scales = max(1, scales - 1)  # its last scale is at half the resolution, too
    data = replace(config.data, shape=shape, columns=config.data.columns or columns)
    config = replace(config, data=data, model=replace(config.model, num_scales=scales))
    if len(shape) == 3:
        check_divisible(shape, config.model)
    if data.turn and shape[1] != shape[2]:
        raise ValueError(f"data.turn: is for square images, the data are {shape}")
    if (least := least_parameters(config)) > MOST_PARAMETERS:
        raise ValueError(f"model.width: {config.model.width} with {scales} scales needs more than {least:.0e} parameters")
    return config


def least_parameters(config: Config) -> int:
    """A number of parameters that the flow of this (resolved) configuration has at least: those of its blocks."""
    models = [config.model]
    while (models[-1].num_scales or 1) > 1:
        models.append(coarser(models[-1]))
    last = models[-1]
    if last.architecture == "paper":
        return 4 * (1 + 19 * last.num_blocks) * last.width**2
    each = 18 if last.architecture == "modern" else 2
    return each * last.num_blocks * sum(model.num_couplings * model.width**2 for model in models)


def coarser(model: ModelConfig) -> ModelConfig:
    """The (resolved) model of the further scales: its width and number of couplings are those of the next one."""
    assert model.num_scales is not None
    couplings = max(1, int(model.coupling_growth * model.num_couplings))
    width = max(1, int(model.growth * model.width))
    return replace(model, num_scales=model.num_scales - 1, width=width, num_couplings=couplings)


def default_num_scales(shape: Shape) -> int:
    """1 for vectors; how often images can be halved until a side is odd or the last scale is 4 pixels (section 4.1), plus one."""
    if len(shape) == 1:
        return 1
    side, scales = min(shape[1:]), 1
    while side >= 8 and all(length % 2**scales == 0 for length in shape[1:]):
        side, scales = side // 2, scales + 1
    return scales


def smallest_side(model: ModelConfig) -> int:
    """The least height and width that the scales of a (resolved) model allow; others are its multiples."""
    assert model.num_scales is not None
    return 1 << model.num_scales - (model.architecture == "paper")


def check_divisible(shape: typing.Sequence[int], model: ModelConfig) -> None:
    """ValueError if height or width is no multiple of what the (resolved) model's scales need."""
    factor = smallest_side(model)
    height, width = shape[-2:]
    if height % factor or width % factor or not height or not width:
        needed = f"{model.num_scales} scales need a height and width divisible by {factor}"
        raise ValueError(f"images of {height}x{width}: {needed} (model.num_scales)")


def validate(config: Config) -> Config:
    """The same configuration; ValueError names the first field whose value makes no sense."""
    _build(Config, json.loads(to_json(config)), "")  # of the right types?
    data, model, train = config.data, config.model, config.train
    rules = [
        ("name", config.name in PRESETS, f"is no preset{nearest(config.name, PRESETS)}"),
        ("train.tracker", train.tracker in TRACKERS, f"must be one of {', '.join(TRACKERS)}"),
        ("seed", 0 <= config.seed < 2**63, "must be between 0 and 2^63 - 1"),
        ("data.set", data.set in PRESETS, f"is no data set{nearest(data.set, PRESETS)}"),
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
        ("model.momentum", 0 <= model.momentum < 1, "must be in [0, 1)"),
        ("model.alpha", 0 < model.alpha < 0.5, "must be between 0 and 0.5"),
        ("train.lr", 0 < train.lr < float("inf"), "must be positive"),
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
    counts = ("max_steps", "batch_size", "moment_batches", *_EVERY)
    rules += [(f"train.{name}", getattr(train, name) >= 1, "must be at least 1") for name in counts]
    for path, holds, complaint in rules:
        if not holds:
            raise ValueError(f"{path}: {flat(config)[path]!r} {complaint}")
    return config


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """' (did you mean ...?)' with the nearest known word, or '' where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"train.lr": 0.001, ...}: every leaf field by its dotted name."""
    leaves: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        nested = dataclasses.is_dataclass(value)
        leaves |= flat(value, f"{prefix}{item.name}.") if nested else {prefix + item.name: value}
    return leaves


def differences(old: Config, new: Config) -> list[str]:
    """Dotted names of the fields in which two configurations differ."""
    before, after = flat(old), flat(new)
    return [name for name in before if before[name] != after[name]]


def to_json(config: Config) -> str:
    """The configuration as JSON text, in the order of its fields."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str | bytes, source: str | Path = "config") -> Config:
    """The configuration in this JSON text.

    ValueError names the source and the field that is unknown (with the nearest name) or of another type.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not JSON: {error}") from None
    try:
        return validate(_build(Config, tree, ""))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{source}: {error}") from None


def read_config(path: Path) -> Config:
    """The configuration in a JSON file; ValueError or OSError names the file, and the field that makes no sense."""
    return from_json(path.read_bytes(), path)


def _build(cls: type, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, dict):
        raise ValueError(f"{prefix.rstrip('.') or 'the top'} must be an object, got {tree!r}")
    hints = typing.get_type_hints(cls)
    if unknown := next((name for name in tree if name not in hints), None):
        raise ValueError(f"unknown field {prefix + unknown!r}{nearest(unknown, hints)}")
    return cls(**{name: _value(hints[name], value, prefix + name) for name, value in tree.items()})


def _value(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path + ".")
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if typing.get_origin(option) is tuple and isinstance(value, list):
            kind = typing.get_args(option)[0]
            if all(type(entry) is kind for entry in value) and (kind is str or len(value) in (1, 3)):
                return tuple(value)
        if isinstance(option, type) and type(value) is option:
            return value
    names = {
        float: "number",
        int: "integer",
        bool: "true or false",
        str: "text",
        types.NoneType: "null",
        Shape: "one or three integers",
        tuple[str, ...]: "a list of names",
    }
    wanted = " or ".join(names.get(option) or " or ".join(map(repr, typing.get_args(option))) for option in options)
    raise ValueError(f"{path}: {value!r} is not {wanted}")
