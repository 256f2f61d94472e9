"""Some images, or rows of a table, of a larger array, read only where they are asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from realnvp.data.source import Indices, Values


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
