"""A data set: its description, and its splits: in memory, memory-mapped, read or cropped."""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from realnvp.config.fields import AS_FOUND, ContextColumn, DecodeOptions
from realnvp.device import as_tensor

Pixels = npt.NDArray[np.unsignedinteger[Any]]
"""uint8, or uint16 for more than 256 gray levels."""
Indices = npt.NDArray[np.int64]
Values = npt.NDArray[Any]
"""Pixels, or float64 rows of a table."""
Shape = tuple[int, int, int]
Item = TypeVar("Item")
Result = TypeVar("Result")
SPLITS = ("train", "validation", "test")


def dequantize(images: Tensor, noise: Tensor) -> Tensor:
    """x = v + u in the dtype of the noise, with floor(x) == v for every pixel.

    images: uint8 or uint16 gray levels v, (B, C, H, W); noise: u in [0, 1), same shape.
    """
    assert images.shape == noise.shape, f"images {tuple(images.shape)}, noise {tuple(noise.shape)}"
    # float32 has 24 bits, and v in 128 .. 255 leaves 16 of them for the fraction: a u next to 1
    # would be rounded up to v + 1.
    deep = images.dtype == torch.uint16
    largest = 1 - (2**15 if deep else 128) * torch.finfo(noise.dtype).eps
    v = images.to(noise.dtype) if deep else images.contiguous()  # torch adds no uint16
    return noise.clamp(max=largest).add_(v)


def quantize(x: Tensor | npt.NDArray[Any], *, levels: int = 256) -> Tensor:
    """The gray levels floor(x), clamped to 0 .. levels - 1: uint8, or uint16 beyond 256 levels.

    ValueError: x has a NaN, or levels is not within 2 .. 65,536.
    """
    if not 2 <= levels <= 65536:
        raise ValueError(f"levels: must be between 2 and 65536, got {levels}")
    x = x if isinstance(x, Tensor) else as_tensor(x)
    if not x.is_floating_point():
        x = x.long()  # torch clamps no bool and no unsigned integers of 16 bits or more
    if x.isnan().any():
        raise ValueError(f"x: {int(x.isnan().sum())} of {x.numel()} pixels are NaN")
    return x.floor().clamp(0, levels - 1).to(torch.uint8 if levels <= 256 else torch.uint16)


def to_pixels(x: Tensor, *, levels: int) -> Pixels:
    """Round x, (N, C, H, W) in data units, to images (N, H, W, C); NaN becomes 0."""
    return channels_last(quantize(x.nan_to_num(), levels=levels).cpu().numpy())


def channels_first(images: Values) -> Values:
    """A view, (N, C, H, W), of images (N, H, W, C); rows, (N, D), stay as they are."""
    return np.moveaxis(images, -1, 1)


def channels_last(images: Values) -> Values:
    """A view, (N, H, W, C), of images (N, C, H, W)."""
    return np.moveaxis(images, 1, -1)


class Split(Protocol):
    """The images or rows of one split; indexing reads uint8 (n, H, W, C) or float64 (n, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: Any, /) -> Values: ...


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of dataset.json."""

    name: str
    version: str | None = None
    comparable: bool = False  # whether these are all images of the paper's version of the set
    levels: int | None = None  # gray levels of images; None: a table
    shape: tuple[int, ...]  # (C, H, W) of images, (D,) of rows
    reading: DecodeOptions = AS_FOUND  # how the image files were decoded
    crop: int | None = None  # side of the crops of pictures of any size
    sizes: list[list[int]] | None = None  # height and width of each training picture to crop
    groups: dict[str, list[int]] | None = None
    """By split: the source photograph of each image; standard errors are clustered by it."""
    class_names: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None  # of a table
    context_values: tuple[ContextColumn, ...] = ()  # of a table
    repeats: dict[int, int] = field(default_factory=dict)
    """Of a set without validation: training images that equal an earlier one, and that one."""
    settings: dict[str, Any] | None = None  # the configuration that `prepare` followed
    sha256: Mapping[str, str] = field(default_factory=dict)  # of the arrays by file name


@dataclass(frozen=True, kw_only=True)
class Dataset(Description):
    """The splits of a data set, with their description."""

    splits: Mapping[str, Split]
    labels: Mapping[str, Values] | None = None
    """By split: the class index of each image, (N,), or the context of each row, (N, k)."""
    folder: Path | None = None  # of the arrays; None: in memory, or not prepared

    def groups_of(self, split: str) -> Sequence[int] | None:
        """The source photograph of each crop of a split. None: the images are no crops."""
        own = getattr(self.splits[split], "groups", None) if self.crop else None
        return (self.groups or {}).get(split) if own is None else list(own.tolist())

    @property
    def decided(self) -> dict[str, Any]:
        """Fields of `data` that the files decide if the configuration leaves them open."""
        found: dict[str, Any] = self.reading.chosen()
        if self.crop:
            found["crop"] = self.crop
        if self.levels and self.levels > 256:
            found["levels"] = self.levels
        if self.context_values:
            found["context_columns"] = tuple(column.name for column in self.context_values)
            found["context_values"] = self.context_values
        return found

    def of_class(self, split: str, name: str | None) -> Split:
        """The images of a split that have this class. None: all images."""
        if name is None or self.labels is None or self.class_names is None:
            return self.splits[split]
        index = self.class_names.index(name)
        return subset(self.splits[split], np.flatnonzero(self.labels[split] == index))

    @property
    def most_frequent(self) -> str | None:
        """The most frequent training class, of those in all splits if there are any."""
        if self.labels is None or self.class_names is None:
            return None
        size = len(self.class_names)
        counts = {split: np.bincount(each, minlength=size) for split, each in self.labels.items()}
        everywhere = np.all([*counts.values()], axis=0)
        train = counts["train"] * (everywhere if everywhere.any() else 1)
        return self.class_names[int(train.argmax())]

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def validation(self) -> Split:
        return self.splits["validation"]

    @property
    def test(self) -> Split:
        return self.splits["test"]


@dataclass(frozen=True)
class Pictures:
    """Images, (H, W, C) each, that are read on demand, several on all cores."""

    count: int
    read: Callable[[int], Pixels]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, wanted: Any) -> Pixels:
        if isinstance(wanted, int | np.integer):
            return self.read(int(wanted))
        return np.stack([*in_threads(self.read, np.arange(self.count)[wanted].tolist())])


@dataclass(frozen=True)
class Subset:
    """The images or rows of these indices, in this order."""

    split: Split
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, wanted: Any) -> Values:
        return self.split[self.indices[wanted]]


def stored_pictures(flat: Pixels, sizes: Indices, channels: int) -> Pictures:
    """Pictures stored one after the other in a flat array, which may be memory-mapped."""
    ends = np.cumsum(sizes.prod(1)) * channels

    def read(index: int) -> Pixels:
        height, width = sizes[index].tolist()
        start = ends[index] - height * width * channels
        return flat[start : ends[index]].reshape(height, width, channels)

    return Pictures(len(sizes), read)


class Crops:
    """Crops of pictures, side x side, as many of each as fit beside each other.

    Like an array, (N, side, side, C): indexing reads the cells of a fixed grid over each picture.
    `crops` crops the picture of a cell anywhere, as training does in each epoch.
    sizes: (n, 2), height and width of each picture.
    most: largest number of cells of one picture, spread all over it; 1: the middle.
    """

    def __init__(
        self, pictures: Split, sizes: Indices, side: int, *, most: int | None = None
    ) -> None:
        self.pictures, self.sizes, self.side = pictures, sizes, side
        self.grid = sizes // side  # (n, 2): rows and columns of cells
        if most:
            share = np.sqrt(np.minimum(1, most / self.grid.prod(1, keepdims=True)))
            self.grid = np.minimum(np.maximum(1, (self.grid * share).astype(int)), most)
        self.ends = np.cumsum(self.grid.prod(1))

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def groups(self) -> Indices:
        """(N,): the index of each crop's picture."""
        return np.repeat(np.arange(len(self.sizes)), self.grid.prod(1))

    def room(self, wanted: Indices) -> Indices:
        """(n, 2): the number of possible tops and lefts of a crop in these pictures."""
        return self.sizes[self._picture(wanted)] - self.side + 1

    def __getitem__(self, wanted: Any) -> Pixels:
        asked = np.asarray(np.arange(len(self))[wanted])
        indices = np.atleast_1d(asked)
        of = self._picture(indices)
        rows, columns = self.grid[of].T
        cell = indices - (self.ends[of] - rows * columns)
        places = np.stack([cell // columns, cell % columns], axis=1)
        # From edge to edge; a single row or column lies in the middle.
        last = np.maximum(self.grid[of] - 1, 1)
        doubled = np.where(self.grid[of] > 1, 2 * places, 1)
        found = self.crops(indices, (self.room(indices) - 1) * doubled // (2 * last))
        return found if asked.ndim else found[0]

    def crops(self, wanted: Indices, corners: Indices) -> Pixels:
        """The crops in these pictures at the corners, (n, 2) of (top, left)."""
        of = self._picture(wanted)
        found: list[Any] = [None] * len(wanted)
        for number in np.unique(of):
            picture = self.pictures[int(number)]
            for i in np.flatnonzero(of == number):
                top, left = corners[i]
                found[i] = picture[top : top + self.side, left : left + self.side].copy()
        return np.stack(found)

    def _picture(self, wanted: Indices) -> Indices:
        return np.searchsorted(self.ends, wanted, side="right")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int = 1024
) -> Iterator[Result]:
    """function(item) of each item, in order, on all cores; `at_once` results wait in memory."""
    iterator = iter(items)
    with ThreadPoolExecutor() as pool:
        while some := [*islice(iterator, at_once)]:
            yield from pool.map(function, some)


def cut_rows(
    splits: Mapping[str, Split],
    val_fraction: float,
    *,
    seed: int,
    equal: Sequence[Any] | None = None,
    source: object = None,
) -> dict[str, Indices]:
    """The indices of train and of each missing split, cut off train by the seed's permutation.

    Each missing split gets `val_fraction` of train, at least one item.
    equal: a key per item; items with equal keys stay in one split.
    source: a warning with this name counts them. ValueError: there are too few items.
    """
    count = len(splits["train"])
    numbers: dict[Any, int] = {}
    group = np.array([numbers.setdefault(key, len(numbers)) for key in equal or range(count)])
    if source and (repeated := count - len(numbers)):
        warnings.warn(
            f"{source}: {repeated} of {count} equal another; they stay in one split", stacklevel=2
        )
    held = max(1, round(val_fraction * count))
    place = np.argsort(np.random.default_rng(seed).permutation(len(numbers)))
    permuted = np.argsort(place[group], kind="stable")
    # Groups that are larger than a held-out split come first, that is, stay in train.
    large = np.bincount(group)[group[permuted]] > held
    left = np.concatenate([permuted[large], permuted[~large]])
    rows: dict[str, Indices] = {}
    for name in reversed([name for name in SPLITS if name not in splits]):
        first = len(left) - held
        while first > 0 and group[left[first]] == group[left[first - 1]]:
            first -= 1
        if first < 1:
            raise ValueError(f"data.source: {len(numbers)} different images or rows are too few")
        # Held-out items stay permuted, so that the first n are a sample.
        rows[name], left = left[first:], left[:first]
    return {"train": np.sort(left), **rows}


def take(splits: Mapping[str, Any], rows: Mapping[str, Indices]) -> dict[str, Any]:
    """Train, validation and test; splits in `rows` are subsets of train."""
    train = splits["train"]
    return {name: subset(train, rows[name]) if name in rows else splits[name] for name in SPLITS}


def subset(split: Split, indices: Indices) -> Split:
    """The entries of these indices, in this order; copied only from an array in memory."""
    return split[indices] if type(split) is np.ndarray else Subset(split, indices)


def digest(values: Values) -> bytes:
    """A key that equal arrays share."""
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).digest()


def open_npy(path: Path) -> Values:
    """The array in an .npy file, memory-mapped and read-only.

    ValueError: the file is missing, damaged or empty.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header, parsed as Python, can raise nearly anything
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(array, np.ndarray) or not array.size:
        raise ValueError(f"{path}: not one array with something in it")
    return array


def npy_header(shape: tuple[int, ...], kind: str) -> bytes:
    """The first bytes of an .npy file; kind: "|u1" is uint8, "<u2" uint16, "<f8" float64."""
    header, about = io.BytesIO(), {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()
