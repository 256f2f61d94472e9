"""CelebA, aligned and cropped: 178x218 JPEG files; list_eval_partition.txt names their splits."""

from pathlib import PurePosixPath

import numpy as np

from realnvp.data.dataset import SPLITS, Dataset, Pixels
from realnvp.data.folder import is_image
from realnvp.data.images import rgb
from realnvp.data.published.archives import Files
from realnvp.data.published.request import Place, Prepared, PrepareRequest, decoded_images, some

COUNTS = {"train": 162_770, "validation": 19_867, "test": 19_962}
PARTITION = "list_eval_partition.txt"
SIDE = 64


def read_celeba(request: PrepareRequest) -> Prepared:
    """A folder with img_align_celeba (folder or .zip) and list_eval_partition.txt.

    Or img_align_celeba itself, with the list beside it.
    """
    every = request.collect(lambda name: name == "img_align_celeba.zip")
    if (
        not any(_partitions(files) for files in every)
        and (request.source.parent / PARTITION).exists()
    ):
        every.append(request.open(request.source.parent))
    images = next((files for files in every if _images(files)), None)
    partition = next(((files, name) for files in every for name in _partitions(files)), None)
    if images is None or partition is None:
        raise ValueError(
            f"{request.source}: lacks "
            f"{PARTITION if images else 'img_align_celeba, a folder or .zip'}"
        )
    split_of, label = _read_partition(partition), partition[0].label(partition[1])
    places = {PurePosixPath(name).name: (images, name) for name in _images(images)}
    if missing := [name for name in places if name not in split_of]:
        raise ValueError(f"{label}: has no line for {some(missing)}")
    if missing := [name for name in split_of if name not in places]:
        raise ValueError(f"{images.path}: lacks {some(missing)}, which {PARTITION} names")
    chosen = {
        split: [places[name] for name in split_of if split_of[name] == split] for split in SPLITS
    }
    if empty := [split for split in SPLITS if not chosen[split]]:
        raise ValueError(f"{label}: has no {' and no '.join(empty)} image")
    complete = request.complete({split: len(part) for split, part in chosen.items()}, COUNTS)
    splits = {
        split: decoded_images(part, (3, SIDE, SIDE), crop_and_scale)
        for split, part in chosen.items()
    }
    return Prepared(
        Dataset(
            "celeba",
            "img_align_celeba" if complete else "img_align_celeba, partial",
            256,
            (3, SIDE, SIDE),
            splits,
            comparable=complete,
        ),
        [partition, *(place for part in chosen.values() for place in part)],
        "rows 40:188, columns 15:163, bilinear to 64x64 without antialiasing, rounded",
    )


def _images(files: Files) -> list[str]:
    return [name for name in files.sizes if is_image(name)]


def _partitions(files: Files) -> list[str]:
    return [name for name in files.sizes if PurePosixPath(name).name == PARTITION]


def _read_partition(place: Place) -> dict[str, str]:
    """{file name: split}, in the order of the lines."""
    files, name = place
    split_of: dict[str, str] = {}
    for number, line in enumerate(files.read(name).decode("ascii", "replace").splitlines(), 1):
        if words := line.split():
            if len(words) != 2 or words[1] not in ("0", "1", "2") or words[0] in split_of:
                raise ValueError(
                    f"{files.label(name)}: line {number} is {line!r}, "
                    "not a new file's name and 0, 1 or 2"
                )
            split_of[words[0]] = SPLITS[int(words[1])]
    return split_of


def crop_and_scale(pixels: Pixels, _: int) -> Pixels:
    """The face, (64, 64, 3), as the authors' code cuts and scales it, rounded.

    TensorFlow 1: bilinear, no antialiasing, corners on corners.
    """
    if pixels.shape[:2] != (218, 178):
        raise ValueError(
            f"is {pixels.shape[0]} high, {pixels.shape[1]} wide; "
            "aligned CelebA images are 218 high, 178 wide"
        )
    face = rgb(pixels)[40:188, 15:163].astype(np.float64)
    # For each new pixel: the old pixels on both sides, and its share of the way to the second.
    place = np.arange(SIDE) * (len(face) / SIDE)
    below = place.astype(np.int64)
    above, share = np.minimum(below + 1, len(face) - 1), place - below
    face = face[below] * (1 - share[:, None, None]) + face[above] * share[:, None, None]
    face = face[:, below] * (1 - share[:, None]) + face[:, above] * share[:, None]
    return np.rint(face).astype(np.uint8)
