"""LSUN scenes: the published lmdb folders, or folders of images exported from them.

The smallest side becomes 96, bilinear and antialiased. Training images are stored as 96x96, cut
along the long side where the seed says; training takes random 64x64 crops of them. Results are
reported on the published validation images: their middle 64x64 becomes test.npy.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from realnvp.data.dataset import Pixels
from realnvp.data.images import center, smallest_side
from realnvp.data.published.prepare import File, LabeledImage, Published, decode_images, files_in
from realnvp.random import Purpose, generator

COUNTS = {
    "bedroom": {"train": 3_033_042, "test": 300},
    "tower": {"train": 708_264, "test": 300},
    "church_outdoor": {"train": 126_227, "test": 300},
}
SIDE, STORED = 64, 96


def read_lsun(source: Path, category: str, seed: int) -> Published:
    """Read CATEGORY_train_lmdb and CATEGORY_val_lmdb, or images in folders train and val."""
    folders = {
        "train": _find_folder(source, category, "train"),
        "test": _find_folder(source, category, "val"),
    }
    version = "published lmdb"
    return Published(_read_scenes(folders, seed), {version: COUNTS[category]}, version)


def _find_folder(source: Path, category: str, split: str) -> Path:
    for name in (f"{category}_{split}_lmdb", split):
        if (source / name).is_dir():
            return source / name
    raise ValueError(f"{source}: no folder {category}_{split}_lmdb (unzipped) or {split}")


def _read_scenes(folders: dict[str, Path], seed: int) -> Iterator[LabeledImage]:
    for split, folder in folders.items():
        if (folder / "data.mdb").exists():
            files = _read_lmdb(folder)
        else:
            files = files_in(folder, r".*\.(webp|jpg|jpeg|png)")
        crop = partial(random_square, seed=seed) if split == "train" else middle
        for _, image in decode_images(files, crop):
            yield split, image, None


def random_square(pixels: Pixels, index: int, *, seed: int) -> Pixels:
    """The smallest side scaled to 96, then 96x96 of the long side, drawn by the seed."""
    scaled = smallest_side(pixels, STORED)
    height, width = scaled.shape[:2]
    top, left = generator(seed, Purpose.SQUARE, index=index).integers(
        (height - STORED + 1, width - STORED + 1)
    )
    return scaled[top : top + STORED, left : left + STORED]


def middle(pixels: Pixels, _: int) -> Pixels:
    """The smallest side scaled to 96, then the middle 64x64."""
    return center(smallest_side(pixels, STORED), SIDE, SIDE)


def _read_lmdb(folder: Path) -> Iterator[File]:
    """The image files in an lmdb, in the order of their keys."""
    import lmdb

    try:
        # Without a lock nothing is written.
        with lmdb.open(str(folder), readonly=True, lock=False, readahead=False) as database:
            # A page beyond the end of a truncated file would end the process.
            needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
            if (folder / "data.mdb").stat().st_size < needed:
                raise ValueError(f"{folder / 'data.mdb'}: truncated, should have {needed} bytes")
            with database.begin() as transaction:
                for key, content in transaction.cursor():
                    yield PurePosixPath(folder.name, key.decode("ascii", "replace")), content
    except lmdb.Error as error:
        raise ValueError(f"{folder}: {error}") from None
