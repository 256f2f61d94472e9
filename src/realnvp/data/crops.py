"""Crops of pictures of any size: a fixed grid, and random places for training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from realnvp.data.dataset import Indices, Pixels, Values, in_threads
from realnvp.progress import track_slices

AT_ONCE = 8  # decoded pictures in memory


class Pictures(Protocol):
    """Pictures of any size with equal channels."""

    sizes: Indices
    """(N, 2): height and width of each."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


@dataclass(frozen=True)
class ReadPictures:
    """Pictures that are decoded on demand."""

    sizes: Indices
    read: Callable[[int], Pixels]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Pixels:
        return self.read(index)

    def subset(self, indices: Indices) -> "ReadPictures":
        """The pictures of these indices, in this order."""
        return ReadPictures(self.sizes[indices], lambda i: self.read(int(indices[i])))


class StoredPictures:
    """Pictures stored one after the other in a flat array, which may be memory-mapped."""

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

    Like an array, (N, side, side, C): indexing reads the cells of a fixed grid over each picture.
    `crops` crops the picture of a cell anywhere, as training does in each epoch.

    most: largest number of cells of one picture, spread all over it. None: as many as fit.
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
        """(N,): the index of each crop's picture."""
        return np.repeat(np.arange(len(self.pictures)), self.grid.prod(1))

    def room(self, wanted: Indices) -> Indices:
        """(n, 2): the number of possible tops and lefts of a crop in these pictures."""
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


class CropView:
    """A view of some images of a stored array, center-cropped, or of some of its rows.

    Like an array, uint8 (N, h, w, C) or float64 (N, D), but only indexing reads. `crops` crops at
    other corners, for training on larger images.
    """

    def __init__(self, images: Values, rows: Indices, size: Sequence[int]) -> None:
        self.images, self.rows, self.size = images, rows, size
        self.dtype = images.dtype
        self.shape = (len(rows), *size, images.shape[-1])
        self.slack = tuple(
            stored - cut for stored, cut in zip(images.shape[1:], size, strict=False)
        )
        """The largest (top, left) of a crop."""

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
        """(n, 2): the number of possible tops and lefts of a crop of these images."""
        return np.tile(np.array(self.slack) + 1, (len(wanted), 1))

    def crops(self, wanted: Indices, corners: Indices) -> Values:
        """The crops of these images at the corners, (n, 2) of (top, left)."""
        height, width = self.size
        return np.stack(
            [
                self.images[row, top : top + height, left : left + width]
                for row, (top, left) in zip(self.rows[wanted], corners.tolist(), strict=True)
            ]
        )


def in_order(pictures: Pictures) -> Iterator[Pixels]:
    """The pictures, decoded on all cores, a few at a time."""
    for part in track_slices(len(pictures), AT_ONCE, "pictures"):
        yield from in_threads(pictures.__getitem__, range(part.start, part.stop))
