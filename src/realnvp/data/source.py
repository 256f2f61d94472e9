"""What a source of images or rows holds, found before anything is written."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from realnvp.data.rows import Rows

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
