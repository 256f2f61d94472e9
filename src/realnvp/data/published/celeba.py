"""CelebA, aligned and cropped: 178x218 JPEG files; list_eval_partition.txt names their splits."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from realnvp.data.dataset import Pixels
from realnvp.data.published.prepare import LabeledImage, Published, decode_images, files_in

# From torchvision's source.
MD5 = {
    "img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
    "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
}
COUNTS = {"train": 162_770, "validation": 19_867, "test": 19_962}
PARTITION = "list_eval_partition.txt"
SPLITS = {"0": "train", "1": "validation", "2": "test"}
SIDE = 64


def read_celeba(source: Path) -> Published:
    """Read a folder with img_align_celeba, a folder or .zip, and list_eval_partition.txt."""
    version = "img_align_celeba"
    return Published(_read_faces(source), {version: COUNTS}, version, md5=MD5)


def _read_faces(source: Path) -> Iterator[LabeledImage]:
    split_of = _read_partition(source)
    files = files_in(source, r"img_align_celeba/.*\.jpg", r"img_align_celeba\.zip")
    for path, face in decode_images(files, lambda pixels, _: crop_and_scale(pixels)):
        if path.name not in split_of:
            raise ValueError(f"{path}: there twice, or not in {PARTITION}")
        yield split_of.pop(path.name), face, None
    if split_of:
        raise ValueError(f"{source}: {next(iter(split_of))} of {PARTITION} is missing")


def _read_partition(source: Path) -> dict[str, str]:
    """{file name: split}."""
    found = next(files_in(source, PARTITION), None)
    if found is None:
        raise ValueError(f"{source}: no {PARTITION}")
    path, content = found
    split_of = {}
    for line in content.decode("ascii", "replace").splitlines():
        name, _, number = line.partition(" ")
        if number.strip() not in SPLITS:
            raise ValueError(f"{path}: {line!r} is not a file name and 0, 1 or 2")
        split_of[name] = SPLITS[number.strip()]
    return split_of


def crop_and_scale(pixels: Pixels) -> Pixels:
    """Rows 40:188 and columns 15:163, scaled to (64, 64, 3) as the authors' code does, rounded.

    TensorFlow 1 scales bilinearly, without antialiasing, pixel i of 64 at 148 i / 64.
    """
    if pixels.shape[:2] != (218, 178):
        raise ValueError(f"{pixels.shape[0]}x{pixels.shape[1]}, not 218x178")
    face = pixels[40:188, 15:163].astype(np.float64)
    # For each new pixel: the old pixels on both sides, and its share of the way to the second.
    place = np.arange(SIDE) * (len(face) / SIDE)
    below = place.astype(np.int64)
    above, share = np.minimum(below + 1, len(face) - 1), place - below
    face = face[below] * (1 - share[:, None, None]) + face[above] * share[:, None, None]
    face = face[:, below] * (1 - share[:, None]) + face[:, above] * share[:, None]
    return np.rint(face).astype(np.uint8)
