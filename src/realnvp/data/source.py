"""What a source of images holds, found before anything is written."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Shape = tuple[int, int, int]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Part:
    """One split: so many images, and a way to read any of them, (n,) indices -> uint8 (n, H, W, C)."""

    count: int
    read: Callable[[Indices], Pixels]

    def take(self, indices: Indices) -> "Part":
        """The part with only these images, in this order."""
        return Part(len(indices), lambda wanted: self.read(indices[wanted]))


@dataclass(frozen=True)
class Source:
    """A data set that could be prepared; its pixels are read only on demand."""

    name: str
    version: str | None
    levels: int
    shape: Shape
    """Channels, height, width."""
    parts: dict[str, Part]
    """By name of the split: train, validation, test."""
    test_groups: list[int] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Images of each split."""
        return {split: part.count for split, part in self.parts.items()}


def array_part(images: Pixels) -> Part:
    """A part that reads from an array, (N, H, W, C), which may be memory-mapped."""
    return Part(len(images), lambda wanted: images[wanted])


def cut_off(parts: dict[str, Part], held_out: float, *, seed: int) -> dict[str, Part]:
    """Train, validation and test; one that is missing is cut off from train by the seed's permutation.

    The share `held_out` of train goes into each, one image at least. ValueError if train is too small for that.
    """
    train, missing = parts["train"], [split for split in SPLITS if split not in parts]
    if missing:
        held = max(1, round(held_out * train.count))
        kept = train.count - held * len(missing)
        if kept < 1:
            raise ValueError(f"data.source: too few training images ({train.count}) to cut off {' and '.join(missing)}")
        rest, *pieces = np.split(np.random.default_rng(seed).permutation(train.count), [kept, kept + held][: len(missing)])
        parts = parts | {split: train.take(piece) for split, piece in zip(missing, pieces, strict=True)}
        # Sorted, train is read in the order of the disk; the held out stay mixed, so that their first n are a sample.
        parts["train"] = train.take(np.sort(rest))
    return {split: parts[split] for split in SPLITS}
