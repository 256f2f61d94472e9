"""Readers of the published files of CIFAR-10, two downsampled ImageNets, CelebA and LSUN."""

import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np

from realnvp.data.dataset import Pixels, channels_last
from realnvp.data.images import center, smallest_side
from realnvp.data.published.prepare import File, LabeledImage, Published, decode_images, files_in
from realnvp.random import Purpose, generator

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR10_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the pixels (C, H, W)
# Two downsampled ImageNets, whose bits/dim differ by about .25: the paper's PNG files, and npz
# batches.
OLD, NEW = "van den Oord 2016 (the paper's)", "Chrabaszcz 2017 (not the paper's)"
IMAGENET_COUNTS = {
    OLD: {"train": 1_281_149, "test": 49_999},
    NEW: {"train": 1_281_167, "test": 50_000},
}
CELEBA_MD5 = {  # from torchvision's source
    "img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
    "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
}
PARTITION = "list_eval_partition.txt"
PARTITION_SPLITS = {"0": "train", "1": "validation", "2": "test"}
LSUN_COUNTS = {
    "bedroom": {"train": 3_033_042, "test": 300},
    "tower": {"train": 708_264, "test": 300},
    "church_outdoor": {"train": 126_227, "test": 300},
}
LSUN_STORED = 96  # side of the training images, of which training crops 64x64


def read_cifar10(source: Path) -> Published:
    """Read cifar-10-binary.tar.gz, or a folder that holds the archive or its files."""
    return Published(
        _read_cifar10(source),
        {"binary version": {"train": 50_000, "test": 10_000}},
        "binary version",
        CIFAR10_CLASSES,
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},  # the publisher's page
    )


def _read_cifar10(source: Path) -> Iterator[LabeledImage]:
    files = files_in(source, r"(data_batch_\d|test_batch)\.bin", r"cifar-10-binary\.tar\.gz")
    # By name, since the archive has its own order, and a folder may hold a file twice.
    for name, content in sorted({path.name: content for path, content in files}.items()):
        if len(content) % CIFAR10_RECORD:
            raise ValueError(f"{name}: {len(content)} bytes, no multiple of {CIFAR10_RECORD}")
        records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
        if records[:, 0].max(initial=0) >= len(CIFAR10_CLASSES):
            raise ValueError(f"{name}: has labels above {len(CIFAR10_CLASSES) - 1}")
        images = channels_last(records[:, 1:].reshape(-1, 3, 32, 32))
        for label, image in zip(records[:, 0].tolist(), images, strict=True):
            yield "train" if name.startswith("data") else "test", image, label


def read_imagenet(source: Path, side: int) -> Published:
    """Read npz batches, or PNG files in train_SxS and valid_SxS; in folders, zips or tars.

    The published validation images, on which results are reported, become test.npy.
    """
    batches = files_in(source, r"(train_data_batch_\d+|val_data)\.npz", rf"Imagenet{side}_.*\.zip")
    if first := next(batches, None):
        images = _read_npz(chain([first], batches), side)
        return Published(images, {NEW: IMAGENET_COUNTS[NEW]}, OLD)
    folder = f"(train|valid)_{side}x{side}"
    files = files_in(source, rf"{folder}/.*\.png", rf"{folder}\.(tar|zip)")
    return Published(_read_pngs(files, side), IMAGENET_COUNTS, OLD)


def _read_npz(batches: Iterable[File], side: int) -> Iterator[LabeledImage]:
    for path, content in batches:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                data = arrays["data"]
        except Exception as error:  # a damaged zip or header raises nearly anything
            raise ValueError(f"{path}: {error}") from None
        if data.dtype != np.uint8 or data.shape[1:] != (3 * side**2,):
            raise ValueError(f"{path}: data is {data.dtype} {data.shape}, not {side}x{side} images")
        for image in channels_last(data.reshape(-1, 3, side, side)):
            yield "train" if path.name.startswith("train") else "test", image, None


def _read_pngs(files: Iterable[File], side: int) -> Iterator[LabeledImage]:
    for path, pixels in decode_images(files, partial(_check_size, height=side, width=side)):
        yield "train" if f"train_{side}x{side}" in path.parts else "test", pixels, None


def _check_size(pixels: Pixels, _: int = 0, *, height: int, width: int) -> Pixels:
    if pixels.shape[:2] != (height, width):
        raise ValueError(f"{pixels.shape[0]}x{pixels.shape[1]}, not {height}x{width}")
    return pixels


def read_celeba(source: Path) -> Published:
    """Read a folder with img_align_celeba, a folder or .zip, and list_eval_partition.txt."""
    counts = {"train": 162_770, "validation": 19_867, "test": 19_962}
    version = "img_align_celeba"
    return Published(_read_faces(source), {version: counts}, version, md5=CELEBA_MD5)


def _read_faces(source: Path) -> Iterator[LabeledImage]:
    split_of = _read_partition(source)
    files = files_in(source, r"img_align_celeba/.*\.jpg", r"img_align_celeba\.zip")
    for path, face in decode_images(files, crop_and_scale):
        if path.name not in split_of:
            raise ValueError(f"{path}: there twice, or not in {PARTITION}")
        yield split_of.pop(path.name), face, None
    if split_of:
        raise ValueError(f"{source}: {next(iter(split_of))} of {PARTITION} is missing")


def _read_partition(source: Path) -> dict[str, str]:
    """{file name: split}."""
    path, content = next(files_in(source, PARTITION), (source, None))
    if content is None:
        raise ValueError(f"{source}: no {PARTITION}")
    split_of = {}
    for line in content.decode("ascii", "replace").splitlines():
        name, _, number = line.partition(" ")
        if number.strip() not in PARTITION_SPLITS:
            raise ValueError(f"{path}: {line!r} is not a file name and 0, 1 or 2")
        split_of[name] = PARTITION_SPLITS[number.strip()]
    return split_of


def crop_and_scale(pixels: Pixels, _: int = 0) -> Pixels:
    """Rows 40:188 and columns 15:163, scaled to (64, 64, 3) as the authors' code does, rounded.

    TensorFlow 1 scales bilinearly, without antialiasing, pixel i of 64 at 148 i / 64.
    """
    face = _check_size(pixels, height=218, width=178)[40:188, 15:163].astype(np.float64)
    # For each new pixel: the old pixels on both sides, and its share of the way to the second.
    place = np.arange(64) * (len(face) / 64)
    below = place.astype(np.int64)
    above, share = np.minimum(below + 1, len(face) - 1), place - below
    face = face[below] * (1 - share[:, None, None]) + face[above] * share[:, None, None]
    face = face[:, below] * (1 - share[:, None]) + face[:, above] * share[:, None]
    return np.rint(face).astype(np.uint8)


def read_lsun(source: Path, category: str, seed: int) -> Published:
    """Read CATEGORY_train_lmdb and CATEGORY_val_lmdb, or images in folders train and val.

    The smallest side becomes 96, bilinear and antialiased. Training images are stored as 96x96, cut
    along the long side by the seed; training takes random 64x64 crops. The middle 64x64 of the
    published validation images, on which results are reported, become test.npy.
    """
    version = "published lmdb"
    images = _read_scenes(source, category, seed)
    return Published(images, {version: LSUN_COUNTS[category]}, version)


def _read_scenes(source: Path, category: str, seed: int) -> Iterator[LabeledImage]:
    for split, name in {"train": "train", "test": "val"}.items():
        folder = source / f"{category}_{name}_lmdb"
        folder = folder if folder.is_dir() else source / name
        if not folder.is_dir():
            raise ValueError(f"{source}: no folder {category}_{name}_lmdb (unzipped) or {name}")
        if (folder / "data.mdb").exists():
            files = _read_lmdb(folder)
        else:
            files = files_in(folder, r".*\.(webp|jpg|jpeg|png)")
        crop = partial(random_square, seed=seed) if split == "train" else middle_square
        for _, image in decode_images(files, crop):
            yield split, image, None


def random_square(pixels: Pixels, index: int, *, seed: int) -> Pixels:
    """The smallest side scaled to 96, then 96x96 of the long side, drawn by the seed."""
    scaled = smallest_side(pixels, LSUN_STORED)
    room = np.array(scaled.shape[:2]) - LSUN_STORED + 1
    top, left = generator(seed, Purpose.SQUARE, index=index).integers(room)
    return scaled[top : top + LSUN_STORED, left : left + LSUN_STORED]


def middle_square(pixels: Pixels, _: int = 0) -> Pixels:
    """The smallest side scaled to 96, then the middle 64x64."""
    return center(smallest_side(pixels, LSUN_STORED), 64, 64)


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


READERS: dict[str, Callable[[Path, int], Published]] = {
    "cifar10": lambda source, seed: read_cifar10(source),
    "imagenet32": lambda source, seed: read_imagenet(source, 32),
    "imagenet64": lambda source, seed: read_imagenet(source, 64),
    "celeba": lambda source, seed: read_celeba(source),
    "lsun-bedroom": lambda source, seed: read_lsun(source, "bedroom", seed),
    "lsun-tower": lambda source, seed: read_lsun(source, "tower", seed),
    "lsun-church-outdoor": lambda source, seed: read_lsun(source, "church_outdoor", seed),
}
"""By name: (source, seed) -> the data set. The seed draws LSUN's stored squares."""
