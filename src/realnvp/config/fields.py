"""The fields of a configuration: frozen pydantic dataclasses, validated when they are built."""

from dataclasses import field, fields
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Shape = tuple[int, ...]
"""(C, H, W) of images, (D,) of vectors."""

NAMED_COLORS = {"white": (255, 255, 255), "black": (0, 0, 0)}

Fraction = Annotated[float, Field(ge=0, le=1)]
BelowHalf = Annotated[float, Field(gt=0, lt=0.5)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
ColorMode = Literal["gray", "rgb"]
BitDepth = Literal[8, 16]
Augmentation = Literal["hflip", "rotate90", "channel_shuffle", "brightness"]
Noise = Literal["uniform", "learned"]
Lsun = Literal["lsun-bedroom", "lsun-tower", "lsun-church-outdoor"]
PublishedSet = Literal["cifar10", "imagenet32", "imagenet64", "celeba", Lsun]


def _settings(title: str) -> ConfigDict:
    """Settings of a dataclass; error messages of a part of `Config` name it by this title."""
    return ConfigDict(extra="forbid", title=title, ser_json_inf_nan="constants")


@dataclass(frozen=True, kw_only=True, config=_settings("data"))
class DecodeOptions:
    """How image files are decoded."""

    background: Annotated[str, Field(pattern="^(white|black|#[0-9a-fA-F]{6})$")] | None = None
    """Color behind transparent pixels: white, black or #rrggbb. None: such files are an error."""
    color_mode: ColorMode | None = None
    """Convert all image files to gray or rgb. None: all must have the same channels."""
    bit_depth: BitDepth | None = None
    """Bits of a channel: 8 keeps the upper byte of 16 bits, 16 multiplies 8 bits by 257. None: all
    files must have the same depth."""

    def chosen(self) -> dict[str, Any]:
        """The options that are not None, by name."""
        options = {item.name: getattr(self, item.name) for item in fields(DecodeOptions)}
        return {name: value for name, value in options.items() if value is not None}


AS_FOUND = DecodeOptions()


def rgb_of(color: str) -> tuple[int, ...]:
    """(red, green, blue), 0 .. 255 each, of white, black or #rrggbb."""
    return NAMED_COLORS.get(color) or tuple(bytes.fromhex(color[1:]))


@dataclass(frozen=True, config=_settings("data"))
class ImageData(DecodeOptions):
    """A data set of images."""

    set: Literal["images", "photos", "digits"] | PublishedSet = "images"
    """Name of the data set; images: your own."""
    source: str | None = None
    """Folder of images, .npy file or prepared folder; photos and digits need none."""
    shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Channels, height, width. None: the shape of the data."""
    levels: Annotated[int, Field(ge=2, le=65536)] = 256
    """Gray levels of a channel; pixels are 0 .. levels - 1. 256 becomes 65,536 for files of 16
    bits."""
    augment: tuple[Augmentation, ...] = ()
    """Random augmentations of training images: hflip mirrors left to right, rotate90 turns square
    images by quarter turns, channel_shuffle permutes the channels, brightness adds up to 1/16 of
    the levels, without clipping."""
    val_fraction: BelowHalf = 0.1
    """Fraction of the training images split off for validation, and for test, where the source has
    no such split."""
    classes: bool = False
    """Learn p(x | class): the class of an image is the name of its subfolder, its entry in
    labels.csv or x-labels.npy beside x.npy, or the label of the data set."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes. None: those of the data."""
    crop: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Side of random crops, new ones in each epoch, of images of any size. None: whole images."""
    resize: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Resize the shorter side to this many pixels, then center-crop; also applied when scoring."""

    @property
    def decode_options(self) -> DecodeOptions:
        """How image files are decoded."""
        return DecodeOptions(**self.chosen())

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = {**self.chosen(), "crop": self.crop, "resize": self.resize}
        if self.set != "images" and (name := next((key for key in own if own[key]), None)):
            raise ValueError(f"data.{name}: only for data.set images, not {self.set}")
        return self


@dataclass(frozen=True, config=_settings("data"))
class ContextColumn:
    """One column of the condition c of a table."""

    name: str
    categories: tuple[str, ...] = ()
    """Its values, one-hot encoded. (): real numbers."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers that encode a value."""
        return tuple(f"{self.name}={text}" for text in self.categories) or (self.name,)


def embed_context(columns: tuple[ContextColumn, ...]) -> tuple[str, ...]:
    """Names of the numbers that encode a row of context columns, in their order."""
    return tuple(name for column in columns for name in column.numbers)


@dataclass(frozen=True, config=_settings("data"))
class TableData:
    """A data set of rows of real numbers."""

    set: Literal["table"] = "table"
    """Name of the data set."""
    source: str | None = None
    """Table (.csv, .npy, .parquet) or prepared folder."""
    shape: tuple[PositiveInt] | None = None
    """Number of columns. None: that of the data."""
    columns: tuple[str, ...] | None = None
    """Names of the columns to learn. None: all."""
    val_fraction: BelowHalf = 0.1
    """Fraction of the rows split off for validation, and for test."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes of a flow of p(x | class), built in Python."""
    drop: tuple[str, ...] | None = None
    """Names of the columns to leave out."""
    context_columns: tuple[str, ...] | None = None
    """Names of columns of numbers or texts: learn p(other columns | these)."""
    context_values: tuple[ContextColumn, ...] = ()
    """The encoding of the context columns; taken from the data."""
    noise: Fraction = 0.0
    """Gaussian noise of the training batches, of noise^2 times the covariance of the rows: a bound
    where values repeat or columns depend on each other."""


DataConfig = ImageData | TableData


@dataclass(frozen=True, config=_settings("model"))
class ModelConfig:
    """The flow (section 3 of the paper)."""

    architecture: Literal["paper", "modern", "vector"] = "paper"
    """paper: section 3, for images; modern: layers of later flows, for images; vector: fully
    connected networks, for tables and points."""
    coupling: Literal["affine", "additive", "spline"] = "affine"
    """affine: Real NVP (eq 4-9); additive: NICE, the paper's predecessor; spline: affine, then a
    rational-quadratic spline (vector)."""
    num_scales: Annotated[int, Field(ge=1, le=16)] | None = None
    """Scales of the recursion (section 3.6). None: until the last one is 4 pixels high or wide."""
    width: PositiveInt = 32
    """Feature maps of the networks at the first scale."""
    growth: Annotated[float, Field(ge=0.25, le=4)] = 2.0
    """Factor of the width from scale to scale; 2 in the paper."""
    num_blocks: Count = 4
    """Residual blocks of each network."""
    num_couplings: PositiveInt = 8
    """modern: couplings at the first scale; vector: couplings in all."""
    coupling_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """modern: factor of the number of couplings from scale to scale, rounded down, at least one."""
    sine_std: Annotated[float, Field(ge=0)] = 0.0
    """vector: half of the networks' first units are sines, with initial weights of this standard
    deviation / D; 0: none."""
    batch_norm: bool = False
    """vector: batch norm (section 3.7) after each coupling; paper always has it."""
    dequantization: Noise = "uniform"
    """modern: noise within a gray level, uniform as in the paper, or learned for a tighter bound
    (variational dequantization)."""
    momentum: BelowOne = 0.0
    """rho of eq 15-16 in training; 0: plain batch statistics."""
    alpha: BelowHalf = 0.05
    """Pixels are scaled into [alpha, 1 - alpha] before the logit (section 4.1)."""
    context_dim: Count = 0
    """Numbers of the condition c that the networks see; taken from the data."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dequantization != "uniform" and self.architecture != "modern":
            raise ValueError("model.dequantization: learned needs a modern model")
        if self.coupling == "spline" and self.architecture != "vector":
            raise ValueError("model.coupling: spline needs a vector model")
        return self


@dataclass(frozen=True, config=_settings("train"))
class TrainConfig:
    """The optimization (section 4.1), and the files written meanwhile."""

    max_steps: PositiveInt | None = 200_000
    """Steps of the optimizer. None: as many as fit into max_minutes."""
    max_minutes: PositiveFloat | None = None
    """Minutes of training over all sessions, without evaluations. The first budget reached ends
    the training."""
    batch_size: PositiveInt = 64
    """Images or rows of a step, over all processes together; at most all rows of a table."""
    lr: PositiveFloat = 1e-3
    """Adam's learning rate; its other settings are the defaults, as in the paper."""
    muon_lr: PositiveFloat | None = None
    """Learning rate of Muon for the networks' weight matrices (modern, vector). None: Adam for
    all."""
    muon_weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Each step multiplies Muon's matrices by 1 - learning rate x this."""
    warmup: Count = 0
    """Steps over which the learning rate rises to lr."""
    decay: Fraction = 0.0
    """Last fraction of the training, over which the learning rate falls to 0 along a cosine."""
    ema_decay: BelowOne = 0.0
    """Decay of the moving average of the weights that evaluations, samples and saved models use; 0:
    the weights themselves."""
    grad_clip: PositiveFloat = 100.0
    """Largest global norm of the gradient of the loss in nats per image."""
    skip_factor: Annotated[float, Field(gt=1)] | None = None
    """Skip a step whose gradient norm exceeds this many times the typical norm. None: never."""
    l2: Annotated[float, Field(ge=0)] = 5e-5
    """Weight of the penalty on the gains of the weight norm and on the scales of the checkerboard
    couplings."""
    precision: Literal["float32", "bfloat16", "auto", "float64"] = "float32"
    """Arithmetic of the networks; auto: bfloat16 where the device is faster with it. z and log-det
    stay float32, and evaluation never uses bfloat16."""
    gradient_checkpointing: bool = False
    """Recompute the networks in the backward pass: less memory, about a third more time."""
    log_every: PositiveInt = 10
    """Steps between two lines of metrics.jsonl."""
    eval_every: PositiveInt = 1000
    """Steps between two evaluations on the validation split."""
    eval_images: PositiveInt = 1000
    """Largest number of validation images or rows of these evaluations."""
    sample_every: PositiveInt = 1000
    """Steps between two grids of samples."""
    save_every: PositiveInt = 1000
    """Steps between two checkpoints."""
    patience: Count = 0
    """Stop after so many evaluations without a better one; 0: never."""
    moment_batches: PositiveInt = 50
    """Training batches over which batch norm's moments are re-estimated before an evaluation."""
    timeout: Annotated[float, Field(gt=0, lt=1e7)] = 1800.0
    """Seconds that one of several processes waits for another."""
    tracker: Literal["none", "tensorboard", "wandb"] = "tensorboard"
    """Tracker of the curves, beside metrics.jsonl."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("train.max_steps: needs train.max_minutes if it is None")
        return self


@dataclass(frozen=True, config=_settings("config"))
class Config:
    """A data set, a model and its training."""

    name: str = "images"
    """Name of the preset."""
    data: Annotated[ImageData | TableData, Field(discriminator="set")] = field(
        default_factory=ImageData
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of weights, splits, batch order and noise."""

    @property
    def shape(self) -> Shape:
        """`data.shape`, (C, H, W) or (D,). ValueError if the data have yet to decide it."""
        if self.data.shape is None:
            raise ValueError("data.shape: is None; the data decide it")
        return self.data.shape

    @property
    def images(self) -> ImageData:
        """`data`. ValueError for a table."""
        if isinstance(self.data, TableData):
            raise ValueError("data: is a table; images are needed")
        return self.data

    @property
    def table(self) -> TableData:
        """`data`. ValueError for images."""
        if isinstance(self.data, ImageData):
            raise ValueError("data: are images; a table is needed")
        return self.data

    @property
    def levels(self) -> int:
        """`data.levels` of images. ValueError for a table."""
        return self.images.levels

    @model_validator(mode="after")
    def _check(self) -> Self:
        data, model = self.data, self.model
        if isinstance(data, TableData) != (model.architecture == "vector"):
            raise ValueError(
                f"model.architecture: {model.architecture} does not fit data.set {data.set}"
            )
        if self.train.muon_lr is not None and model.architecture == "paper":
            raise ValueError("train.muon_lr: needs a modern or vector model")
        if model.dequantization == "learned" and isinstance(data, ImageData):
            gray = data.shape is not None and data.shape[0] == 1
            # Its cells reach half a level beyond the outermost levels.
            if not gray and 2 * model.alpha * (data.levels + 1) <= 1:
                raise ValueError(
                    f"model.alpha: must exceed 1 / {2 * data.levels + 2} for learned dequantization"
                )
        return self


# On resume these may differ from those of the run; any other changed field is another training.
MAY_CHANGE = frozenset(
    f"train.{name}"
    for name in (
        *("max_steps", "max_minutes", "patience", "timeout", "tracker", "gradient_checkpointing"),
        *("log_every", "eval_every", "eval_images", "sample_every", "save_every"),
    )
)
