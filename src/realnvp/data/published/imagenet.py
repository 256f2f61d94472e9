"""Two downsampled ImageNets, 32x32 and 64x64, told apart by their numbers of images.

"Old": van den Oord et al. 2016, PNG files, the paper's. "New": Chrabaszcz et al. 2017, npz batches.
Their bits/dim differ by about .25. Results are reported on the published validation images: they
become test.npy.
"""

import io
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from realnvp.data.dataset import Pixels, channels_last
from realnvp.data.published.prepare import File, LabeledImage, Published, decode_images, files_in

OLD, NEW = "van den Oord 2016 (the paper's)", "Chrabaszcz 2017 (not the paper's)"
COUNTS = {OLD: {"train": 1_281_149, "test": 49_999}, NEW: {"train": 1_281_167, "test": 50_000}}


def read_imagenet(source: Path, side: int) -> Published:
    """Read npz batches, or PNG files in train_SxS and valid_SxS; in folders, zips or tars."""
    batches = files_in(source, r"(train_data_batch_\d+|val_data)\.npz", rf"Imagenet{side}_.*\.zip")
    if first := next(batches, None):
        return Published(_read_batches(chain([first], batches), side), {NEW: COUNTS[NEW]}, OLD)
    folder = f"(train|valid)_{side}x{side}"
    pictures = files_in(source, rf"{folder}/.*\.png", rf"{folder}\.(tar|zip)")
    return Published(_read_pictures(pictures, side), COUNTS, OLD)


def _read_batches(batches: Iterable[File], side: int) -> Iterator[LabeledImage]:
    for path, content in batches:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                data = arrays["data"]
        except Exception as error:  # a damaged zip or header raises nearly anything
            raise ValueError(f"{path}: {error}") from None
        if data.dtype != np.uint8 or data.shape[1:] != (3 * side**2,):
            raise ValueError(
                f"{path}: data is {data.dtype} {data.shape}, not uint8 (N, {3 * side**2})"
            )
        split = "train" if path.name.startswith("train") else "test"
        for image in channels_last(data.reshape(-1, 3, side, side)):
            yield split, image, None


def _read_pictures(pictures: Iterable[File], side: int) -> Iterator[LabeledImage]:
    def check(pixels: Pixels, _: int) -> Pixels:
        if pixels.shape[:2] != (side, side):
            raise ValueError(f"{pixels.shape[0]}x{pixels.shape[1]}, not {side}x{side}")
        return pixels

    for path, pixels in decode_images(pictures, check):
        yield "train" if f"train_{side}x{side}" in path.parts else "test", pixels, None
