"""A data set: its splits, read on demand before it is prepared, memory-mapped afterwards."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from realnvp.config import ContextColumn
from realnvp.config.errors import ParameterError
from realnvp.config.fields import AS_FOUND, DecodeOptions
from realnvp.device import as_tensor
from realnvp.progress import chunks

Pixels = npt.NDArray[np.unsignedinteger[Any]]
"""uint8, or uint16 where there are more than 256 grey levels."""
Indices = npt.NDArray[np.int64]
Values = npt.NDArray[Any]
"""Pixels, or a table's float64 rows."""
Shape = tuple[int, int, int]
Item = TypeVar("Item")
Result = TypeVar("Result")
SPLITS = ("train", "validation", "test")


def dequantize(images: Tensor, noise: Tensor) -> Tensor:
    """x = v + u in the type of the noise, with floor(x) == v for every pixel.

    images: uint8 or uint16, grey levels v, (B, C, H, W); noise: u in [0, 1), same shape.
    """
    assert images.shape == noise.shape, f"images {tuple(images.shape)}, noise {tuple(noise.shape)}"
    # float32 has 24 bits, of which v in 128 .. 255 leaves 16 after the point: a u next to 1 would
    # be rounded up, to v + 1.
    deep = images.dtype == torch.uint16
    largest = 1 - (2**15 if deep else 128) * torch.finfo(noise.dtype).eps
    v = images.to(noise.dtype) if deep else images.contiguous()  # torch adds no uint16
    return noise.clamp(max=largest).add_(v)


def quantize(x: Tensor | npt.NDArray[Any], *, levels: int = 256) -> Tensor:
    """The grey levels floor(x), clamped to 0 .. levels - 1; of x's shape, any shape.

    uint8, or uint16 for more than 256 levels.

    ValueError if x has a NaN, which no grey level stands for, or if levels are more than 65,536.
    """
    if not 2 <= levels <= 65536:
        raise ValueError(f"levels: must be between 2 and 65536, got {levels}")
    x = x if isinstance(x, Tensor) else as_tensor(x)
    if x.is_complex():
        raise ParameterError("x", f"must be real numbers, got {x.dtype}")
    if not x.is_floating_point():
        x = x.long()  # torch clamps no other integers of 16 bits or more, and no bool
    if x.isnan().any():
        raise ValueError(f"{int(x.isnan().sum())} of {x.numel()} pixels are NaN")
    return x.floor().clamp(0, levels - 1).to(torch.uint8 if levels <= 256 else torch.uint16)


def each_image(images: Iterable[Any]) -> Iterator[Any]:
    """The images of an array or a list, one by one. ParameterError: it is neither."""
    try:
        return iter(images)
    except TypeError:
        words = f"expected an array or a list of images, got {type(images).__name__}"
        raise ParameterError("images", words) from None


def to_pixels(x: Tensor, *, levels: int) -> Pixels:
    """The images that x, (N, C, H, W) in data units, rounds to: (N, H, W, C), NaN as 0."""
    return channels_last(quantize(x.nan_to_num(), levels=levels).cpu().numpy())


def channels_first(images: Values) -> Values:
    """A view, (N, C, H, W), of images (N, H, W, C); rows, (N, D), stay as they are."""
    return np.moveaxis(images, -1, 1)


def channels_last(images: Values) -> Values:
    """A view, (N, H, W, C), of images (N, C, H, W)."""
    return np.moveaxis(images, 1, -1)


class Split(Protocol):
    """The images or rows of one split; indexing reads them: uint8 (n, H, W, C), float64 (n, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: Any, /) -> Values: ...


@dataclass(frozen=True)
class Dataset:
    """A data set: its splits, and what is known of them."""

    name: str
    version: str | None
    levels: int | None
    """Grey levels of images; None: real numbers, a table."""
    shape: tuple[int, ...]
    """Channels, height, width of images; the number of columns of a table."""
    splits: Mapping[str, Split]
    """By name: train, validation, test. Memory-mapped arrays of prepared data, else `Lazy`."""
    groups: dict[str, list[int]] | None = None
    """By split: which photograph each image was cut from; standard errors are clustered by it."""
    train_shape: Shape | None = None
    """Of the stored training images, where training cuts its images out of larger ones."""
    comparable: bool = False
    """Whether the paper's number is about these images: its version of the set, and all of it."""
    columns: tuple[str, ...] | None = None
    """Names of a table's columns."""
    reading: DecodeOptions = AS_FOUND
    """How the image files were read."""
    crop: int | None = None
    """The side of the crops that are cut from pictures of any sizes."""
    labels: Mapping[str, Values] | None = None
    """By split: the class of each image, an index of class_names; of a table the numbers of its
    given columns, (N, k)."""
    class_names: tuple[str, ...] | None = None
    context: tuple[str, ...] | None = None
    """Names of the columns that a table's others are given."""
    context_values: tuple[ContextColumn, ...] = ()
    """Their encoding."""
    folder: Path | None = None
    """Where the arrays lie; None: only in memory, or not prepared."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """The checksum of each array, by the name of its file."""

    def groups_of(self, split: str) -> Sequence[int] | None:
        """Which photograph or picture each image of a split is a crop of. None: of none."""
        own = getattr(self.splits[split], "groups", None)
        return (self.groups or {}).get(split) if own is None else list(own.tolist())

    @property
    def decided(self) -> dict[str, Any]:
        """What a configuration that leaves it open takes from the data, by field of data."""
        crop = {"crop": self.crop} if self.crop else {}
        deep = {"levels": self.levels} if self.levels and self.levels > 256 else {}
        context = (
            {"context_columns": self.context, "context_values": self.context_values}
            if self.context
            else {}
        )
        return {**deep, **crop, **self.reading.chosen(), **context}

    def of_class(self, split: str, name: str | None) -> Split:
        """The images of a split that are of this class. None: all."""
        if name is None or self.labels is None or self.class_names is None:
            return self.splits[split]
        index = self.class_names.index(name)
        return chosen(self.splits[split], np.flatnonzero(self.labels[split] == index))

    @property
    def most_frequent(self) -> str | None:
        """The name of the class that training has most often, of those that all splits have, if
        any. None: there are no classes.
        """
        if self.labels is None or self.class_names is None:
            return None
        counts = {
            split: np.bincount(labels, minlength=len(self.class_names))
            for split, labels in self.labels.items()
        }
        everywhere = np.all([*counts.values()], axis=0)
        train = counts["train"] * (everywhere if everywhere.any() else 1)
        return self.class_names[int(train.argmax())]

    @property
    def counts(self) -> dict[str, int]:
        """How many images or rows each split has."""
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def train(self) -> Split:
        """The split that a training sees."""
        return self.splits["train"]

    @property
    def validation(self) -> Split:
        """The split that chooses the best model."""
        return self.splits["validation"]

    @property
    def test(self) -> Split:
        """The split that results are reported on."""
        return self.splits["test"]


@dataclass(frozen=True)
class Lazy:
    """A split that is read on demand."""

    count: int
    read: Callable[[Indices], Values]
    """(n,) indices -> n images or rows."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, wanted: Any) -> Values:
        return self.read(
            np.arange(*wanted.indices(self.count))
            if isinstance(wanted, slice)
            else np.asarray(wanted)
        )


def chosen(split: Split, indices: Indices) -> Lazy:
    """The split with only these images, in this order."""
    return Lazy(len(indices), lambda wanted: split[indices[wanted]])


def decoded(count: int, decode: Callable[[int], Pixels]) -> Lazy:
    """The split whose images `decode(index)` reads, (H, W, C) each, on all cores."""
    return Lazy(count, lambda wanted: np.stack(list(in_threads(decode, wanted.tolist()))))


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """function(item) of each item, in order, on all cores.

    A thousand at a time: a future for each of a million would fill the memory.
    """
    with ThreadPoolExecutor() as pool:
        for chunk in chunks(len(items), 1024):
            yield from pool.map(function, items[chunk])


def split_off(
    splits: Mapping[str, Any],
    val_fraction: float,
    *,
    seed: int,
    choose: Callable[[Any, Indices], Any] = chosen,
) -> dict[str, Any]:
    """Train, validation and test; a missing split is cut off from train by the seed's permutation.

    The share `val_fraction` of train goes into each missing split, one image at least.
    choose: makes the split that has only the images of these indices.
    ValueError: train is too small.
    """
    train, missing = splits["train"], [name for name in SPLITS if name not in splits]
    rows = cut_rows(len(train), val_fraction, missing, seed=seed) if missing else {}
    return {name: choose(train, rows[name]) if name in rows else splits[name] for name in SPLITS}


def cut_rows(
    count: int, val_fraction: float, missing: Sequence[str], *, seed: int
) -> dict[str, Indices]:
    """Which of `count` training images go into each missing split, and which stay in train."""
    held = max(1, round(val_fraction * count))
    if (kept := count - held * len(missing)) < 1:
        raise ValueError(
            f"data.source: too few training images (rows), {count}, "
            f"to cut off {' and '.join(missing)}"
        )
    rest, *pieces = np.split(
        np.random.default_rng(seed).permutation(count), [kept, kept + held][: len(missing)]
    )
    # Sorted, train is read in the order of the disk. Held out images stay mixed, so that their
    # first n are a sample.
    return {"train": np.sort(rest)} | dict(zip(missing, pieces, strict=True))


class Rows:
    """A view of a stored array: some of its images, cut to their centre, or some of its rows.

    Like an array, uint8 (N, h, w, C) or float64 (N, D), but indexing reads, so that nothing large
    is copied. `crops` cuts anywhere else: training on larger images does.
    """

    def __init__(self, images: Values, rows: Indices, size: Sequence[int]) -> None:
        self.images, self.rows, self.size = images, rows, size
        self.dtype = images.dtype
        self.shape = (len(rows), *size, images.shape[-1])
        self.slack = tuple(
            stored - cut for stored, cut in zip(images.shape[1:], size, strict=False)
        )
        """How far down and right a corner can lie."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: Any) -> Values:
        middle = [
            slice(room // 2, room // 2 + length)
            for room, length in zip(self.slack, self.size, strict=True)
        ]
        return np.asarray(self.images[self.rows[wanted]][(..., *middle, slice(None))])

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def room(self, wanted: Indices) -> Indices:
        """(n, 2): how many places the upper and the left edge of these images can have."""
        return np.tile(np.array(self.slack) + 1, (len(wanted), 1))

    def crops(self, wanted: Indices, corners: Indices) -> Values:
        """The images of these indices, cut from their corners; corners: (n, 2) of (top, left)."""
        height, width = self.size
        return np.stack(
            [
                self.images[row, top : top + height, left : left + width]
                for row, (top, left) in zip(self.rows[wanted], corners.tolist(), strict=True)
            ]
        )
