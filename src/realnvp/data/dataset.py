"""A data set: its parts, read on demand, before it is prepared; its splits, memory-mapped, afterwards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Values = npt.NDArray[Any]
"""Pixels, or a table's float64 rows."""
Shape = tuple[int, int, int]
Item = TypeVar("Item")
Result = TypeVar("Result")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Part:
    """One split: so many images (rows), and a way to read any of them, (n,) indices -> uint8 (n, H, W, C), float64 (n, D)."""

    count: int
    read: Callable[[Indices], Values]

    def take(self, indices: Indices) -> "Part":
        """The part with only these images, in this order."""
        return Part(len(indices), lambda wanted: self.read(indices[wanted]))


@dataclass(frozen=True)
class Source:
    """A data set that could be prepared; its pixels are read only on demand. A table's levels are None: real numbers."""

    name: str
    version: str | None
    levels: int | None
    shape: tuple[int, ...]
    """Channels, height, width; of a table how many columns."""
    parts: dict[str, Part]
    """By name of the split: train, validation, test."""
    groups: dict[str, list[int]] | None = None
    """By split: which photograph each image was cut from."""
    train_shape: Shape | None = None
    """Of the stored training images, where training cuts its images out of larger ones."""
    comparable: bool = True
    """Whether these are the images that the paper's number is about: its version of the set, and all of it."""
    columns: tuple[str, ...] | None = None
    """A table's, by name."""

    @property
    def counts(self) -> dict[str, int]:
        """Images of each split."""
        return {split: part.count for split, part in self.parts.items()}


def array_part(images: "Values | Rows") -> Part:
    """A part that reads from an array, (N, H, W, C) or (N, D), which may be memory-mapped or a view of one."""
    return Part(len(images), lambda wanted: images[wanted])


def decoded_part(count: int, decode: Callable[[int], Pixels]) -> Part:
    """A part that decodes its images when they are read, on all cores; decode(index) gives (H, W, C)."""
    return Part(count, lambda wanted: np.stack(list(in_threads(decode, wanted.tolist()))))


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """function(item) of each, in their order, on all cores; a future for each of a million at once would fill the memory."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), 1024):
            yield from pool.map(function, items[start : start + 1024])


def cut_off(parts: dict[str, Part], held_out: float, *, seed: int) -> dict[str, Part]:
    """Train, validation and test; one that is missing is cut off from train by the seed's permutation.

    The share `held_out` of train goes into each, one image at least. ValueError if train is too small for that.
    """
    if missing := [split for split in SPLITS if split not in parts]:
        rows = cut_rows(parts["train"].count, held_out, missing, seed=seed)
        parts = parts | {split: parts["train"].take(rows[split]) for split in rows}
    return {split: parts[split] for split in SPLITS}


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def cut_rows(count: int, held_out: float, missing: Sequence[str], *, seed: int) -> dict[str, Indices]:
    """Which of `count` training images go into each missing split, and which stay in train."""
    held = max(1, round(held_out * count))
    kept = count - held * len(missing)
    if kept < 1:
        raise ValueError(f"data.source: too few training images (rows), {count}, to cut off {' and '.join(missing)}")
    rest, *pieces = np.split(np.random.default_rng(seed).permutation(count), [kept, kept + held][: len(missing)])
    # Sorted, train is read in the order of the disk; the held out stay mixed, so that their first n are a sample.
    return {"train": np.sort(rest)} | dict(zip(missing, pieces, strict=True))


class Rows:
    """Like an array, uint8 (N, h, w, C) or float64 (N, D), but a view: chosen ones of those stored, images cut to their centre.

    Indexing reads, so nothing large is copied; `crops` cuts anywhere else, which is what training on larger images does.
    """

    def __init__(self, images: Values, rows: Indices, size: Sequence[int]) -> None:
        self.images, self.rows, self.size = images, rows, size
        self.dtype = images.dtype
        self.shape = (len(rows), *size, images.shape[-1])
        self.slack = tuple(stored - cut for stored, cut in zip(images.shape[1:], size, strict=False))
        """How far down and right a corner can lie."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: Any) -> Values:
        images: Values = self.images[self.rows[wanted]]
        middle = [slice(room // 2, room // 2 + length) for room, length in zip(self.slack, self.size, strict=True)]
        whole: Any = (..., *middle, slice(None))
        return np.asarray(images[whole])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def crops(self, wanted: Indices, corners: Indices) -> Values:
        """The images with these indices, each from its own corner on: (n, 2), rows of (top, left)."""
        height, width = self.size
        places = zip(self.rows[wanted], corners.tolist(), strict=True)
        return np.stack([self.images[row, top : top + height, left : left + width] for row, (top, left) in places])


@dataclass(frozen=True)
class Splits:
    """A data set, each split uint8 (N, H, W, C) or float64 (N, D), memory-mapped and read-only, or a view of rows."""

    name: str
    version: str | None
    levels: int | None
    train: Values | Rows
    validation: Values | Rows
    test: Values | Rows
    groups: dict[str, list[int]] | None = None
    """By split: which photograph each image was cut from; standard errors are clustered by it."""
    comparable: bool = True
    """Whether these are the images that the paper's number is about."""
    columns: tuple[str, ...] | None = None
    """A table's, by name."""
    folder: Path | None = None
    """Where they lie; those made anew lie nowhere."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """The checksum of each array, by the name of its file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width; of a table how many columns."""
        _, *size, channels = self.test.shape
        return channels, *size
