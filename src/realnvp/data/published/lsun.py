"""LSUN scenes: the published lmdb folders, or folders of images exported from them.

The smallest side becomes 96. Training images are stored as 96x96, cut along the long side where the
seed says; training takes random 64x64 crops of them. Results are reported on the published
validation images: their middle becomes test.npy.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

from realnvp.data.dataset import Dataset, Indices, Lazy, Pixels
from realnvp.data.folder import is_image
from realnvp.data.images import centre, decode_image, rgb, smallest_side
from realnvp.data.published.request import Place, Prepared, PrepareRequest, decoded_images
from realnvp.random import Purpose, generator

COUNTS = {
    "bedroom": {"train": 3_033_042, "test": 300},
    "tower": {"train": 708_264, "test": 300},
    "church_outdoor": {"train": 126_227, "test": 300},
}
SIDE, STORED = 64, 96


def read_lsun(request: PrepareRequest) -> Prepared:
    """A folder with CATEGORY_train_lmdb and CATEGORY_val_lmdb, or with images in train and val."""
    category = request.set.removeprefix("lsun-").replace("-", "_")
    shapes = {"train": (3, STORED, STORED), "test": (3, SIDE, SIDE)}

    def change(split: str, pixels: Pixels, index: int) -> Pixels:
        scaled = smallest_side(rgb(pixels), STORED)
        if split == "test":
            return centre(scaled, SIDE, SIDE)
        height, width = scaled.shape[:2]
        top, left = generator(request.seed, Purpose.SQUARE, index=index).integers(
            (height - STORED + 1, width - STORED + 1)
        )
        return scaled[top : top + STORED, left : left + STORED]

    splits: dict[str, Lazy] = {}
    inputs: list[Place] = []
    for split, word in {"train": "train", "test": "val"}.items():
        files = request.open(_folder(request.source, category, word))
        if "data.mdb" in files.sizes:
            splits[split] = _lmdb(request, files.path, partial(change, split))
            inputs.append((files, "data.mdb"))
        elif places := [(files, name) for name in files.sizes if is_image(name)]:
            splits[split] = decoded_images(places, shapes[split], partial(change, split))
            inputs += places
        else:
            raise ValueError(f"{files.path}: neither an lmdb (data.mdb) nor images in it")
    complete = request.complete(
        {name: len(split) for name, split in splits.items()}, COUNTS[category]
    )
    return Prepared(
        Dataset(
            request.set,
            None if complete else "partial",
            256,
            shapes["test"],
            splits,
            train_shape=shapes["train"],
            comparable=complete,
        ),
        inputs,
        "smallest side to 96, bilinear, antialiased; train: 96x96 by the seed; test: "
        "the middle 64x64",
    )


def _folder(source: Path, category: str, word: str) -> Path:
    names = [
        f"{category}_{word}_lmdb",
        f"{category}_{word}",
        word,
        *(["valid", "validation"] if word == "val" else []),
    ]
    if found := next((name for name in names if (source / name).is_dir()), None):
        return source / found
    zipped = source / f"{names[0]}.zip"
    hint = (
        f"; unzip {zipped.name} first, since lmdb needs a file of its own"
        if zipped.exists()
        else ""
    )
    raise ValueError(f"{source}: lacks a folder {names[0]}, or {word} with images{hint}")


def _lmdb(request: PrepareRequest, folder: Path, change: Callable[[Pixels, int], Pixels]) -> Lazy:
    """The images in an lmdb, in the order of its keys. No lock is taken: nothing is written."""
    import lmdb

    try:
        database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
        request.stack.callback(database.close)
        # A page beyond the end of the file would end the process, not raise.
        needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
        if (folder / "data.mdb").stat().st_size < needed:
            raise ValueError(f"{folder / 'data.mdb'}: truncated, it should have {needed:,} bytes")
        transaction = request.stack.enter_context(database.begin())
        keys = list(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise ValueError(f"{folder}: {error}") from None
    if not keys:
        raise ValueError(f"{folder}: an empty lmdb")

    def one(index: int, content: bytes) -> Pixels:
        name = f"{folder}: key {keys[index].decode('ascii', 'replace')}"
        return change(decode_image(BytesIO(content), name), index)

    def read(wanted: Indices) -> Pixels:
        # A transaction belongs to one thread.
        contents = [transaction.get(keys[index]) for index in wanted.tolist()]
        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(one, wanted.tolist(), contents)))

    return Lazy(len(keys), read)
