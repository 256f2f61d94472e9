"""What is to be prepared, and what a reader found."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realnvp.config.fields import AS_FOUND, DecodeOptions
from realnvp.data.dataset import Dataset, Indices, Lazy, Pixels, Shape, decoded
from realnvp.data.images import Size
from realnvp.data.published.archives import SUFFIXES, Files, open_files

Place = tuple[Files, str]
"""A file in a folder or archive."""


@dataclass(frozen=True)
class PrepareRequest:
    """What is to be prepared, how, and from where."""

    set: str
    source: Path
    stack: ExitStack
    """Closes the source's files."""
    scratch: Path
    """A folder that temporary files without a name may take space in."""
    allow_partial: bool
    crop: Size | None
    resize: Size | None
    val_fraction: float
    seed: int
    background: str | None = None
    color_mode: str | None = None
    bit_depth: int | None = None

    @property
    def reading(self) -> DecodeOptions:
        """How image files become pixels."""
        return DecodeOptions(self.background, self.color_mode, self.bit_depth)

    def collect(self, wanted: Callable[[str], bool]) -> list[Files]:
        """The source, a folder or archive, and the archives in a folder whose names are wanted."""
        files = self.open()
        return [
            files,
            *(
                self.open(self.source / name)
                for name in files.sizes
                if self.source.is_dir() and name.lower().endswith(SUFFIXES)
                if wanted(Path(name).name)
            ),
        ]

    def open(self, path: Path | None = None) -> Files:
        """The files of a folder or archive; of the source if none is named."""
        return open_files(path or self.source, self.stack, self.scratch)

    def complete(self, found: dict[str, int], *published: dict[str, int]) -> bool:
        """Whether the counts are published counts; ValueError if they must be and are not."""
        if found in published:
            return True
        if not self.allow_partial:
            raise ValueError(
                f"{self.source}: {_words(found)} images, published are "
                f"{' or '.join(map(_words, published))} (--allow-partial takes them)"
            )
        return False


@dataclass(frozen=True)
class Prepared:
    """A data set that can be written, and where it comes from."""

    dataset: Dataset
    inputs: Sequence[Place]
    """The files that are read."""
    done: str
    """What is done to each image, in words."""


def decoded_images(
    images: Sequence[Place],
    shape: Shape,
    change: Callable[[Pixels, int], Pixels],
    *,
    reading: DecodeOptions = AS_FOUND,
    deep: bool = False,
) -> Lazy:
    """Image files, decoded on all cores when read.

    change: (pixels, index) -> (H, W, C).
    deep: whether they have 16 bits per channel.
    """
    wanted, bits = (*shape[1:], shape[0]), 16 if deep else 8

    def one(index: int) -> Pixels:
        files, name = images[index]
        try:
            pixels = change(files.image(name, reading), index)
        except ValueError as error:
            raise ValueError(
                str(error) if str(files.path) in str(error) else f"{files.label(name)}: {error}"
            ) from None
        if (found := 8 * pixels.dtype.itemsize) != bits:
            raise ValueError(f"{files.label(name)}: has {found} bits per channel, not {bits}")
        if pixels.shape != wanted:
            raise ValueError(f"{files.label(name)}: has the shape {pixels.shape}, not {wanted}")
        return pixels

    return decoded(len(images), one)


def chained(counts: Sequence[int], load: Callable[[int], Pixels]) -> Lazy:
    """The images of several files, one after the other.

    load(k) reads file k; one file at a time is kept in memory.
    """
    ends = np.cumsum(counts)
    kept: dict[int, Pixels] = {}

    def loaded(file: int) -> Pixels:
        if file not in kept:
            kept.clear()
            kept[file] = load(file)
        return kept[file]

    def read(wanted: Indices) -> Pixels:
        of = np.searchsorted(ends, wanted, side="right")
        # In order, since `wanted` ascends.
        return np.concatenate(
            [
                loaded(file)[wanted[of == file] - (ends[file] - counts[file])]
                for file in np.unique(of).tolist()
            ]
        )

    return Lazy(int(ends[-1]), read)


def some(names: Sequence[str]) -> str:
    """The first name, and how many more there are, in words."""
    return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())
