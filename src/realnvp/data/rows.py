"""Some images of a larger array, read only where they are asked for."""

from typing import Any

import numpy as np
import numpy.typing as npt

from realnvp.data.source import Indices, Pixels


class Rows:
    """Like an array of uint8 (N, h, w, C), but a view: chosen rows of stored images, each cut to its centre.

    Indexing reads, so nothing large is copied; `crops` cuts anywhere else, which is what training on larger images does.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, images: Pixels, rows: Indices, size: tuple[int, int]) -> None:
        self.images, self.rows, self.size = images, rows, size
        self.shape = (len(rows), *size, images.shape[3])
        self.slack = (images.shape[1] - size[0], images.shape[2] - size[1])
        """How far down and right a corner can lie."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: Any) -> Pixels:
        (height, width), top, left = self.size, self.slack[0] // 2, self.slack[1] // 2
        images: Pixels = self.images[self.rows[wanted]]
        return images[..., top : top + height, left : left + width, :]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def crops(self, wanted: Indices, corners: Indices) -> Pixels:
        """The images with these indices, each from its own corner on: (n, 2), rows of (top, left)."""
        height, width = self.size
        places = zip(self.rows[wanted], corners.tolist(), strict=True)
        return np.stack([self.images[row, top : top + height, left : left + width] for row, (top, left) in places])


Images = Pixels | Rows
