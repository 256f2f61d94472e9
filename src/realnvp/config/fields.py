"""What there is to choose: the fields of a configuration, frozen."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from realnvp.config.errors import ParameterError

NAMED = {"white": (255, 255, 255), "black": (0, 0, 0)}


class DecodeOptions(NamedTuple):
    """What to do with a picture that is not like the others. None: it is refused."""

    background: str | None = None
    """What transparent pixels lie on: white, black or #rrggbb."""
    color_mode: str | None = None
    """grey or rgb: what every picture becomes."""
    bit_depth: int | None = None
    """8 or 16 bits a channel: 8 keeps the upper byte of 16, 16 stretches 8 (v becomes 257 v)."""

    def but(self, context: "DecodeOptions") -> "DecodeOptions":
        """These choices, but for those that are given."""
        return DecodeOptions(**{**self._asdict(), **context.chosen()})

    def chosen(self) -> dict[str, Any]:
        """The choices that are made, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


AS_FOUND = DecodeOptions()


def rgb_of(color: str) -> tuple[int, ...]:
    """(red, green, blue), 0 .. 255 each, of white, black or #rrggbb."""
    return NAMED.get(color) or tuple(bytes.fromhex(color[1:]))


def is_colour(text: str) -> bool:
    """Whether it is white, black or #rrggbb."""
    return text in NAMED or re.fullmatch("#[0-9a-fA-F]{6}", text) is not None


Number = TypeVar("Number", int, float)


class Bound(NamedTuple):
    """What a value must keep; None always passes."""

    holds: Callable[[Any], bool]
    words: str


def bounded(default: Any, *bounds: Bound) -> Any:
    """A field of a dataclass with this default and these bounds."""
    return dataclasses.field(default=default, metadata={"bounds": bounds})


def broken(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted name of each field that breaks a bound, in the order of the fields, and which."""
    for item in dataclasses.fields(config):
        value, path = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            yield from broken(value, f"{path}.")
        for bound in item.metadata.get("bounds", ()):
            if value is not None and not bound.holds(value):
                yield path, bound.words


def check_number(name: str, value: Any, kind: type[Number], bound: Bound) -> Number:
    """The value of a parameter as a number of Python's.

    value: a number, of Python or numpy, or an array or a tensor without dimensions.
    kind: int takes whole numbers, 3.0 too; float takes all real ones.

    ParameterError: it is no number of this kind, or breaks the bound.
    """
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    if kind is int and isinstance(number, float) and number.is_integer():
        number = int(number)
    fits = isinstance(number, Integral if kind is int else Real) and not isinstance(number, bool)
    if not fits:
        wanted = "a whole number" if kind is int else "a number"
        raise ParameterError(name, f"must be {wanted}, got {value!r}")
    if not bound.holds(number):
        raise ParameterError(name, f"{bound.words}, got {number}")
    return kind(number)


def between(low: float, high: float) -> Bound:
    """Both ends included."""
    return Bound(lambda value: low <= value <= high, f"must be between {low} and {high}")


def positive(below: float = inf) -> Bound:
    """More than 0, and less than what can only be a mistake."""
    return Bound(lambda value: 0 < value < below, "must be positive")


AT_LEAST_ZERO = Bound(lambda value: 0 <= value < inf, "must be a number of at least 0")
AT_LEAST_ONE = Bound(lambda value: value >= 1, "must be at least 1")
BETWEEN_0_AND_1 = Bound(lambda value: 0 < value < 1, "must be between 0 and 1")
AT_MOST_HALF = Bound(lambda value: 0 < value <= 0.5, "must be above 0 and at most 0.5")
BELOW_HALF = Bound(lambda value: 0 < value < 0.5, "must be between 0 and 0.5")
NOT_NEGATIVE = Bound(lambda value: 0 <= value < inf, "must not be negative")
BELOW_ONE = Bound(lambda value: 0 <= value < 1, "must be in [0, 1)")
SHARE = Bound(lambda value: 0 < value <= 1, "must be more than 0 and at most 1")
MORE_THAN_ONE = Bound(lambda value: value > 1, "must be more than 1")
POSITIVE_OR_INFINITE = Bound(lambda value: value > 0, "must be positive")
SEED = Bound(lambda value: 0 <= value < 2**63, "must be between 0 and 2^63 - 1")
SHAPE = (
    Bound(lambda value: len(value) in (1, 3), "must be one or three integers"),
    Bound(lambda value: 1 <= min(value) <= max(value) <= 65536, "must be between 1 and 65536"),
)
COLOUR = Bound(is_colour, "must be white, black or #rrggbb")
DIFFERENT = Bound(lambda value: len({*value}) == len(value), "must be different names")


Shape = tuple[int, ...]
"""(C, H, W) of images, (D,) of vectors."""
TRACKERS = ("none", "tensorboard", "wandb", "comet_ml", "mlflow", "aim", "clearml", "dvclive")


class Kind(Enum):
    """What a density is of."""

    IMAGES = "images"
    """Grey levels, (C, H, W)."""
    TABLE = "table"
    """Rows of real numbers, (D,)."""


@dataclass(frozen=True)
class DataConfig:
    """The images, or the table."""

    set: str = "images"
    """Name of the data set: photos, digits, images, table, cifar10, imagenet32, ..."""
    source: str | None = None
    """Folder of images, .npy file, table (.csv, .npy, .parquet), or prepared folder; photos and
    digits need none."""
    shape: tuple[int, ...] | None = bounded(None, *SHAPE)
    """Channels, height, width of images, or how many columns a table has; taken from the data when
    not given."""
    columns: tuple[str, ...] | None = bounded(None, DIFFERENT)
    """Names of the columns of a table to take, also a,b,c; all when not given."""
    levels: int | None = bounded(256, between(2, 65536))
    """Grey levels of a channel; pixels are 0 .. levels - 1. 256: of files of 16 bits 65,536. None:
    real numbers, a table."""
    flip: bool = False
    """Mirror training images left to right, half of the time; never in evaluation."""
    turn: bool = False
    """Turn training images, which must be square, by a random number of quarter turns; never in
    evaluation."""
    recolour: bool = False
    """Put the channels of training images into random order; never in evaluation."""
    val_fraction: float = bounded(0.1, BELOW_HALF)
    """Share of the training images (rows) cut off for validation, and for test, where the source
    has no such split."""
    classes: bool = False
    """Learn p(x | class): the class of an image is the name of its subfolder, or in labels.npy or
    labels.csv beside arrays, or the set's own label."""
    class_names: tuple[str, ...] | None = bounded(None, DIFFERENT)
    """Names of the classes; taken from the data when not given."""
    drop: tuple[str, ...] | None = bounded(None, DIFFERENT)
    """Names of the columns of a table to leave out."""
    context_columns: tuple[str, ...] | None = bounded(None, DIFFERENT)
    """Names of columns of a table, also a,b,c: learn p(other columns | these). They hold numbers or
    texts."""
    context_values: tuple[str, ...] | None = None
    """What each given column may hold, as JSON; taken from the data. null: numbers; a number:
    numbers, which this one stands for where they are missing; a list: texts."""
    ordered: tuple[str, ...] | None = None
    """Given columns whose texts have an order, each like 'cut: Fair < Good < Ideal'; the others'
    texts are one number each."""
    missing: Literal["refuse", "mark"] = "refuse"
    """Missing values of given columns: refuse them, or let a number say where they are."""
    noise: float = bounded(0.0, between(0, 1))
    """Gaussian noise of each training batch of a table, with this^2 times the covariance of its
    rows: a bound where values repeat or columns depend on each other."""
    background: str | None = bounded(None, COLOUR)
    """white, black or #rrggbb: what transparent pixels of image files lie on; such files are
    refused when not given."""
    color_mode: str | None = bounded(
        None, Bound(lambda value: value in ("grey", "rgb"), "must be grey or rgb")
    )
    """grey or rgb: what all image files become; they must be alike when not given."""
    bit_depth: int | None = bounded(None, Bound(lambda value: value in (8, 16), "must be 8 or 16"))
    """Bits of a channel of image files: 8 keeps the upper byte of 16 bits, 16 stretches 8; they
    are kept when not given."""
    crop: int | None = bounded(None, between(1, 4096))
    """Side of random crops, in each epoch others, of pictures of any sizes; images are of one size
    and taken whole when not given."""
    resize: int | None = bounded(None, between(1, 4096))
    """What the smallest side of image files is scaled to; their middle square is taken, or crops;
    also of files that the trained flow scores."""
    brighten: int = bounded(0, NOT_NEGATIVE)
    """Add a random number of grey levels to each training image, or take it away: at most so many,
    and none beyond black or white; never in evaluation."""

    @property
    def reading(self) -> DecodeOptions:
        """How image files become pixels."""
        return DecodeOptions(self.background, self.color_mode, self.bit_depth)

    @property
    def kind(self) -> Kind:
        """Images, whose pixels have grey levels, or a table, whose columns have none."""
        return Kind.TABLE if self.levels is None else Kind.IMAGES


Noise = Literal["uniform", "variational", "autoregressive", "oblique"]


def is_richer(noise: Noise, than: Noise) -> bool:
    """Whether a flow of noise `than` may begin to have this noise."""
    kinds = get_args(Noise)
    return kinds.index(noise) > kinds.index(than)


@dataclass(frozen=True)
class ModelConfig:
    """The flow (section 3 of the paper)."""

    architecture: Literal["paper", "modern", "vector"] = "paper"
    """paper: section 3, for images; modern: what later flows found; vector: fully connected
    networks, for tables and points."""
    coupling: Literal["affine", "additive", "spline"] = "affine"
    """affine: Real NVP (eq 4-9); additive: NICE, the paper's predecessor; spline: affine and then
    bent, for tables."""
    num_scales: int | None = bounded(None, between(1, 16))
    """Scales of the recursion (section 3.6); None: until the last one is 4 pixels high or wide."""
    width: int = bounded(32, between(1, 4096))
    """Feature maps of the networks at the first scale."""
    growth: float = bounded(2.0, between(0.25, 4))
    """By what the width grows at each further scale; the paper's doubles."""
    num_blocks: int = bounded(4, between(0, 1000))
    """Residual blocks of each network."""
    num_couplings: int = bounded(8, between(1, 1000))
    """modern: how many couplings at the first scale; vector: how many in all."""
    coupling_decay: float = bounded(1.0, SHARE)
    """modern: which share of the couplings each further scale has of the scale before, rounded
    down; one at least."""
    sine_std: float = bounded(0.0, between(0, 1000))
    """vector: half of the networks' first units are sines, with weights of this deviation / D at
    the start; 0: none."""
    batch_norm: bool = False
    """vector: whether batch norm (section 3.7) follows each coupling; the paper's images always
    have it."""
    dequantization: Noise = "uniform"
    """modern: the noise within a grey level; uniform as in the paper, or learned, whose bits/dim
    are a tighter bound: variational; autoregressive, where a pixel's colours and its neighbours
    have noise that belongs together; oblique, where one noise moves all colours, too."""
    momentum: float = bounded(0.0, BELOW_ONE)
    """rho of eq 15-16 in training; 0: plain batch statistics."""
    alpha: float = bounded(0.05, BELOW_HALF)
    """Pixels are squeezed into [alpha, 1 - alpha] before the logit (section 4.1)."""
    context_dim: int = bounded(0, between(0, 100_000))
    """Numbers of a condition that the networks see: one of a class each, or columns; taken from the
    data."""
    given_every: int = bounded(1, AT_LEAST_ONE)
    """modern: every so many couplings of a scale, counted from its last, see the condition."""
    calibrated: bool = False
    """vector: fit a last map of each latent to the validation rows, so that intervals of rows that
    training has not seen hold what they say."""


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation (section 4.1), and what is written when."""

    max_steps: int | None = bounded(200_000, AT_LEAST_ONE)
    """Steps of the optimiser; None: as many as fit into max_minutes, also when a command names
    those alone."""
    max_minutes: float | None = bounded(None, positive(below=1e9))
    """Minutes of training over all sittings, evaluations not counted; of two budgets the one
    reached first ends it."""
    batch_size: int = bounded(64, AT_LEAST_ONE)
    """Images of a step, over all processes together; of a table rows, and all of them where there
    are fewer."""
    lr: float = bounded(1e-3, positive())
    """Adam's learning rate; its other settings are the defaults, as in the paper."""
    muon_lr: float | None = bounded(None, positive())
    """Learning rate of Muon for the networks' weights that are matrices (modern, vector); None:
    Adam for all."""
    muon_weight_decay: float = 0.0
    """Each step multiplies Muon's matrices by 1 - learning rate x this."""
    warmup: int = bounded(0, NOT_NEGATIVE)
    """Steps over which the learning rate rises to lr."""
    decay: float = bounded(0.0, between(0, 1))
    """Share of the training, its last part, over which the learning rate falls to 0, along a
    cosine."""
    ema_decay: float = bounded(0.0, BELOW_ONE)
    """Evaluations, samples and models use a moving average of the weights that keeps this share
    each step; 0: the weights."""
    grad_clip: float = bounded(100.0, POSITIVE_OR_INFINITE)
    """Largest global norm of the gradient of the loss in nats per image."""
    clip_factor: float | None = bounded(None, MORE_THAN_ONE)
    """Largest norm of the gradient in typical norms of the steps before; None: clip alone
    decides."""
    skip_factor: float | None = bounded(None, MORE_THAN_ONE)
    """Skip a step whose gradient norm exceeds this many times the typical norm; None: never."""
    l2: float = bounded(5e-5, NOT_NEGATIVE)
    """Weight of the penalty on the gains of the weight norm and on the checkerboard couplings'
    bounds."""
    precision: Literal["float32", "bfloat16", "auto", "float64"] = "float32"
    """Arithmetic of the networks; auto: bfloat16 where the device is faster with it, else float32,
    which on GPUs is never TF32. With bfloat16 the state z and the log-det stay float32, and
    evaluation does without."""
    gradient_checkpointing: bool = False
    """Keep only the couplings' inputs for the gradient and compute the rest again: less memory,
    about a third more time."""
    log_every: int = bounded(10, AT_LEAST_ONE)
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = bounded(1000, AT_LEAST_ONE)
    """Steps between two evaluations on the validation split."""
    eval_images: int = bounded(1000, AT_LEAST_ONE)
    """At most so many validation images, or rows, are used for choosing the best model."""
    sample_every: int = bounded(1000, AT_LEAST_ONE)
    """Steps between two grids of samples."""
    save_every: int = bounded(1000, AT_LEAST_ONE)
    """Steps between two checkpoints."""
    patience: int = bounded(0, NOT_NEGATIVE)
    """Stop after so many evaluations without a better one; 0: never."""
    moment_batches: int = bounded(50, AT_LEAST_ONE)
    """Training batches over which batch norm's moments are re-estimated before an evaluation."""
    timeout: float = bounded(1800.0, positive(below=1e7))
    """Seconds that one of several processes waits for another, also for its preparation of the
    data, before it gives up."""
    tracker: str = bounded(
        "tensorboard",
        Bound(lambda value: value in TRACKERS, f"must be one of {', '.join(TRACKERS)}"),
    )
    """Where curves go beside metrics.jsonl: tensorboard, wandb or another tracker of `TRACKERS`, or
    none."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a training."""

    name: str = "images"
    """The preset that this configuration started from."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: int = bounded(0, SEED)
    """Seed of weights, splits, batch order and noise."""

    @property
    def kind(self) -> Kind:
        """Images or a table."""
        return self.data.kind

    @property
    def shape(self) -> Shape:
        """`data.shape`, (C, H, W) or (D,). ValueError while the data have yet to decide it."""
        if self.data.shape is None:
            raise ValueError(
                "data.shape: the data decide it; "
                "give (channels, height, width), or (columns,) of a table"
            )
        return self.data.shape

    @property
    def levels(self) -> int:
        """`data.levels` of images. ValueError for a table."""
        if self.data.levels is None:
            raise ValueError("data.levels: a table has none; this is for images")
        return self.data.levels


# On resume these may differ from the run's; any other changed field is another training.
MAY_CHANGE = frozenset(
    f"train.{name}"
    for name in (
        *("max_steps", "max_minutes", "patience", "timeout", "tracker", "gradient_checkpointing"),
        *("log_every", "eval_every", "eval_images", "sample_every", "save_every"),
    )
)


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"train.lr": 0.001, ...}: every leaf field by its dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in vars(config).items():
        nested = dataclasses.is_dataclass(value)
        leaves |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return leaves


def differences(old: Config, new: Config) -> list[str]:
    """Dotted names of the fields in which two configurations differ."""
    before, after = flat(old), flat(new)
    return [name for name in before if before[name] != after[name]]


def to_json(config: Config) -> str:
    """The configuration as JSON text, in the order of its fields."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """A number of numpy's as one of Python's; of other values, which no field takes, a word."""
    if getattr(value, "shape", None) == ():
        return value.item()
    return {type(value).__name__: str(value)}
