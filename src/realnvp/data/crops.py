"""Crops of pictures of any sizes: a grid of fixed crops, and crops anywhere for training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from realnvp.data.dataset import Indices, Pixels, in_threads
from realnvp.progress import chunks

AT_ONCE = 8  # large pictures, decoded and not yet used


class Pictures(Protocol):
    """Pictures of any sizes and of equal channels."""

    sizes: Indices
    """(N, 2): height and width of each."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


@dataclass(frozen=True)
class ReadPictures:
    """Pictures that are decoded whenever they are asked for."""

    sizes: Indices
    read: Callable[[int], Pixels]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Pixels:
        return self.read(index)

    def chosen(self, indices: Indices) -> "ReadPictures":
        """Only these pictures, in this order."""
        return ReadPictures(self.sizes[indices], lambda i: self.read(int(indices[i])))


class StoredPictures:
    """Pictures that lie one after the other in a flat array, which may be memory-mapped."""

    def __init__(self, flat: Pixels, sizes: Sequence[Sequence[int]], channels: int) -> None:
        self.flat, self.channels = flat, channels
        self.sizes = np.asarray(sizes, np.int64).reshape(-1, 2)
        self.ends = np.cumsum(self.sizes.prod(1)) * channels

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Pixels:
        (height, width), end = self.sizes[index], self.ends[index]
        start = end - height * width * self.channels
        return self.flat[start:end].reshape(height, width, self.channels)


class Crops:
    """Crops of pictures, side x side, as many of each as fit beside each other.

    So a large picture counts for more than a small one. Like an array, (N, side, side, C):
    indexing reads the cells of a grid over each picture, always the same. `crops` cuts anywhere
    else in the picture of a cell: training does, in each epoch.

    most: cells of one picture at most, spread all over it. None: as many as fit.
    """

    def __init__(self, pictures: Pictures, side: int, *, most: int | None = None) -> None:
        self.pictures, self.side = pictures, side
        self.grid = pictures.sizes // side  # (N, 2): rows and columns of cells
        if most:
            share = np.sqrt(np.minimum(1, most / self.grid.prod(1, keepdims=True)))
            self.grid = np.minimum(np.maximum(1, (self.grid * share).astype(int)), most)
        self.ends = np.cumsum(self.grid.prod(1))

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def groups(self) -> Indices:
        """(N,): which picture each crop is of."""
        return np.repeat(np.arange(len(self.pictures)), self.grid.prod(1))

    def room(self, wanted: Indices) -> Indices:
        """(n, 2): how many places the upper and the left edge of these crops can have."""
        return self.pictures.sizes[self._picture(wanted)] - self.side + 1

    def __getitem__(self, wanted: Any) -> Pixels:
        asked = np.asarray(
            range(*wanted.indices(len(self))) if isinstance(wanted, slice) else wanted
        )
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
        """The crops of these indices, cut from their corners; corners: (n, 2) of (top, left)."""
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


def in_order(pictures: Pictures) -> Iterator[Pixels]:
    """The pictures, decoded on all cores, a few at a time."""
    for chunk in chunks(len(pictures), AT_ONCE):
        yield from in_threads(pictures.__getitem__, range(chunk.start, chunk.stop))
