"""Crops of pictures of any size: a fixed grid, and random places for training."""

from typing import Any

import numpy as np

from realnvp.data.dataset import Indices, Pictures, Pixels, Split


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
    most: largest number of cells of one picture, spread all over it; 1: the middle. None: as many
        as fit.
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
