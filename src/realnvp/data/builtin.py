"""Data sets without a download: crops of photographs in scikit-image and scikit-learn; digits."""

import importlib
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import numpy as np

from realnvp.data.dataset import SPLITS, Dataset, Indices, Pictures, Pixels, cut_rows, digest, take
from realnvp.data.images import read_image

Box = tuple[int, int, int, int]


class Photograph(NamedTuple):
    """A photograph, and the corner of it that the test crops come from."""

    wheel: str
    file: str
    left: bool
    top: bool


# Left out: retina and hubble_deep_field, of one color with hardly a shape at this size; color and
# logo, no photographs; motorcycle_right, the scene of motorcycle_left. Of the four corners, test is
# the corner that a PNG compresses most like train.
PHOTOGRAPHS = (
    Photograph("scikit-image", "skimage/data/astronaut.png", left=True, top=True),
    Photograph("scikit-image", "skimage/data/chelsea.png", left=True, top=False),
    Photograph("scikit-image", "skimage/data/coffee.png", left=False, top=True),
    Photograph("scikit-image", "skimage/data/motorcycle_left.png", left=False, top=False),
    Photograph("scikit-image", "skimage/data/rocket.jpg", left=False, top=False),
    Photograph("scikit-image", "skimage/data/ihc.png", left=True, top=False),
    Photograph("scikit-learn", "sklearn/datasets/images/china.jpg", left=True, top=True),
    Photograph("scikit-learn", "sklearn/datasets/images/flower.jpg", left=True, top=False),
)
COUNTS = {"train": 20_000, "validation": 500, "test": 1_000}
SIZE = 32
# At least two source pixels per crop pixel, so that the noise and the blocks of JPEG are averaged
# away; at most 112 in all, so that an object is in view.
SIDES = (64, 112)
MARGIN = 8
# A window whose standard deviation, in gray levels, is below this is drawn again: otherwise a fifth
# of the crops would be sky.
FLATTEST = 8


def photos(*, seed: int) -> Dataset:
    """Crops of (3, 32, 32), area-averaged from square windows; a seed always has the same bits."""
    from PIL import Image

    photographs = load_photographs()
    pictures = [Image.fromarray(pixels) for pixels in photographs]
    drawn = windows(photographs, seed=seed)

    def crop(boxes: Indices, index: int) -> Pixels:
        number, left, top, side = boxes[index].tolist()
        box = (left, top, left + side, top + side)
        return np.asarray(pictures[number].resize((SIZE, SIZE), Image.Resampling.BOX, box=box))

    return Dataset(
        name="photos",
        version="scikit-image + scikit-learn wheels",
        levels=256,
        shape=(3, SIZE, SIZE),
        splits={
            split: Pictures(len(boxes), partial(crop, boxes)) for split, boxes in drawn.items()
        },
        groups={split: boxes[:, 0].tolist() for split, boxes in drawn.items()},
    )


def load_photographs() -> list[Pixels]:
    """The photographs in the order of `PHOTOGRAPHS`, uint8 (H, W, 3) each."""
    # Found, not imported: scikit-image takes seconds, and its own functions might download.
    return [read_image(Path(str(distribution(p.wheel).locate_file(p.file)))) for p in PHOTOGRAPHS]


def regions(photograph: Photograph, width: int, height: int) -> dict[str, Box]:
    """(left, top, right, bottom) of each split's part of a photograph.

    A column for train, another with test above validation, mirrored as `photograph` says, with
    `MARGIN` pixels between any two.
    """
    column, row = round(0.42 * width), round(0.6 * (height - MARGIN))
    boxes = {
        "train": (column + MARGIN, 0, width, height),
        "validation": (0, row + MARGIN, column, height),
        "test": (0, 0, column, row),
    }
    for split, (left, top, right, bottom) in boxes.items():
        left, right = (left, right) if photograph.left else (width - right, width - left)
        top, bottom = (top, bottom) if photograph.top else (height - bottom, height - top)
        boxes[split] = left, top, right, bottom
    return boxes


def windows(photographs: list[Pixels], *, seed: int) -> dict[str, Indices]:
    """The source windows of each split, rows of (photograph, left, top, side), in turns."""
    drawn = {split: np.empty((COUNTS[split], 4), dtype=np.int64) for split in SPLITS}
    for number, pixels in enumerate(photographs):
        boxes = regions(PHOTOGRAPHS[number], pixels.shape[1], pixels.shape[0])
        # Of g = R + G + B and g^2 over all pixels above and left, (2, H + 1, W + 1), exact.
        gray = pixels.sum(axis=-1, dtype=np.int64)
        sums = np.stack([gray, gray**2]).cumsum(axis=1).cumsum(axis=2)
        sums = np.pad(sums, ((0, 0), (1, 0), (1, 0)))
        for place, split in enumerate(SPLITS):
            turns = drawn[split][number :: len(photographs)]
            rng = np.random.default_rng([seed, number, place])
            turns[:, 0], turns[:, 1:] = number, _draw(boxes[split], len(turns), sums=sums, rng=rng)
    return drawn


def _draw(box: Box, count: int, *, sums: Indices, rng: np.random.Generator) -> Indices:
    """`count` windows (left, top, side) inside the box, none of them flat."""
    # Only the place is drawn again: all splits and photographs have the same scales.
    side = rng.integers(SIDES[0], SIDES[1] + 1, size=count)
    found = np.stack([side, side, side], axis=1)
    again = np.arange(count)
    while again.size:
        found[again, 0] = rng.integers(box[0], box[2] - side[again] + 1)
        found[again, 1] = rng.integers(box[1], box[3] - side[again] + 1)
        left, top, width = found[again].T
        right, bottom, area = left + width, top + width, width**2
        inside = sums[:, bottom, right] - sums[:, top, right]
        first, second = inside - sums[:, bottom, left] + sums[:, top, left]
        again = again[area * second - first**2 < (3 * FLATTEST * area) ** 2]
    return found


def digits(val_fraction: float, seed: int) -> Dataset:
    """The 1797 digits, (1, 8, 8) with 17 gray levels, split by the seed's permutation."""
    found = importlib.import_module("sklearn.datasets").load_digits()
    images = {"train": found.images[..., None].astype(np.uint8)}
    equal = [*map(digest, images["train"])]
    rows = cut_rows(images, val_fraction, seed=seed, equal=equal)
    return Dataset(
        name="digits",
        version="scikit-learn load_digits",
        levels=17,
        shape=(1, 8, 8),
        splits=take(images, rows),
        labels=take({"train": found.target}, rows),
        class_names=tuple(map(str, found.target_names.tolist())),
    )
