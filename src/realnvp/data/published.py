"""The published files of CIFAR-10, two downsampled ImageNets, CelebA and LSUN to prepared folders.

Archives are read member by member; nothing is extracted to disk.
"""

import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from realnvp.config.fields import DecodeOptions
from realnvp.data.dataset import (
    SPLITS,
    Dataset,
    Pixels,
    channels_last,
    digest,
    in_threads,
    npy_header,
    open_npy,
)
from realnvp.data.images import center, decode_image, smallest_side
from realnvp.data.prepared import new_folder, write_description
from realnvp.progress import track
from realnvp.random import Purpose, generator

LabeledImage = tuple[str, Pixels, int | None]
"""Split, pixels (H, W, 3), and class index; None: the data set has no classes."""
File = tuple[PurePosixPath, bytes]
"""Path and content."""
RGB = DecodeOptions(color_mode="rgb", bit_depth=8)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR10_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the pixels (C, H, W)
# Two downsampled ImageNets, whose bits/dim differ by about .25: the paper's PNG files, and npz
# batches.
IMAGENET_COUNTS = {
    "van den Oord 2016 (the paper's)": {"train": 1_281_149, "test": 49_999},
    "Chrabaszcz 2017 (not the paper's)": {"train": 1_281_167, "test": 50_000},
}
CELEBA_COUNTS = {"train": 162_770, "validation": 19_867, "test": 19_962}
PARTITION = "list_eval_partition.txt"
LSUN_COUNTS = {"bedroom": 3_033_042, "tower": 708_264, "church_outdoor": 126_227}
LSUN_STORED = 96  # side of the training images, of which training crops 64x64


@dataclass(frozen=True)
class Published:
    """A published data set.

    read: (source, seed) -> the images in order. The seed draws LSUN's stored squares.
    counts: by version, the paper's first: the published number of images of each split.
    """

    read: Callable[[Path, int], Iterator[LabeledImage]]
    counts: Mapping[str, Mapping[str, int]]
    class_names: tuple[str, ...] | None = None


def write_published(
    found: Published, name: str, source: Path, out: Path, *, allow_partial: bool, seed: int
) -> Dataset:
    """Write the prepared folder `out`, whole or not at all.

    Published validation images, on which results are reported, become test.npy.
    allow_partial: accept other numbers of images than the published ones.
    ValueError: a file is damaged or missing, or `out` holds something.
    """
    first = next(iter(found.counts))
    with new_folder(out) as folder:
        images = found.read(source, seed)
        total = sum(found.counts[first].values())
        repeats = _write_arrays(track(images, "images", total=total), folder)
        paths = {split: folder / f"{split}.npy" for split in SPLITS}
        splits = {split: open_npy(path) for split, path in paths.items() if path.exists()}
        counts = {split: len(images) for split, images in splits.items()}
        version = next((key for key, each in found.counts.items() if each == counts), None)
        partial_ok = allow_partial and counts.keys() == found.counts[first].keys()
        if version is None and not partial_ok:
            expected = " or ".join(map(str, found.counts.values()))
            raise ValueError(f"{source}: holds {counts} images, published are {expected}")
        dataset = Dataset(
            name=name,
            version=version or "partial",
            comparable=version == first,
            levels=256,
            shape=(3, *splits["test"].shape[1:3]),
            splits=splits,
            class_names=found.class_names,
            repeats={} if "validation" in splits else repeats,
        )
        write_description(dataset, folder)
    return dataset


def _write_arrays(images: Iterable[LabeledImage], folder: Path) -> dict[int, int]:
    """Append each image to the .npy file of its split; write the labels beside them.

    Returns the training images that equal an earlier one, and that one.
    """
    earlier: dict[bytes, int] = {}
    repeats: dict[int, int] = {}
    parts: dict[str, tuple[BinaryIO, tuple[int, ...], list[int | None]]] = {}
    with ExitStack() as stack:
        for split, image, label in images:
            if split not in parts:
                opened = stack.enter_context((folder / f"{split}.npy").open("wb"))
                opened.write(npy_header((0, *image.shape), "|u1"))
                parts[split] = opened, image.shape, []
            if split == "train":
                index = len(parts[split][2])
                if (same := earlier.setdefault(digest(image), index)) < index:
                    repeats[index] = same
            parts[split][0].write(image.tobytes())
            parts[split][2].append(label)
        for split, (file, shape, labels) in parts.items():
            file.seek(0)  # the header is as long for any number of images
            file.write(npy_header((len(labels), *shape), "|u1"))
            if None not in labels:
                np.save(folder / f"{split}-labels.npy", np.array(labels))
    return repeats


def files_in(source: Path, pattern: str, archives: str = "") -> Iterator[File]:
    """Path and content of files in a folder, a .zip or a tar, or in the archives in a folder.

    Paths begin with the name of the archive. A tar keeps its order; others are sorted.
    pattern: regular expression of the paths, from any slash, of files that are not hidden.
    archives: regular expression of the names of a folder's archives.
    ValueError: an archive is damaged.
    """
    wanted = re.compile(rf"(?!\.[^/]|.*/\.)(.*/)?({pattern})").fullmatch
    if source.is_dir():
        for file in sorted(source.rglob("*")):
            path = file.relative_to(source).as_posix()
            if archives and re.fullmatch(archives, file.name):
                yield from files_in(file, pattern)
            elif wanted(path) and file.is_file():
                yield PurePosixPath(path), file.read_bytes()
        return
    try:
        if source.suffix == ".zip":
            with zipfile.ZipFile(source) as archive:
                for name in sorted(filter(wanted, archive.namelist())):
                    yield PurePosixPath(source.name, name), archive.read(name)
            return
        with tarfile.open(source, "r|*") as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # a million take a gigabyte
                if wanted(member.name) and (content := tar.extractfile(member)):
                    yield PurePosixPath(source.name, member.name), content.read()
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise ValueError(f"{source}: {error}") from None


def decode_images(
    files: Iterable[File],
    change: Callable[[Pixels, int], Pixels] = lambda pixels, _: pixels,
    *,
    size: tuple[int, int] | None = None,
) -> Iterator[tuple[PurePosixPath, Pixels]]:
    """Path and pixels, uint8 (H, W, 3), of each image file, in order, decoded on all cores.

    change: (pixels, index of the file) -> pixels.
    ValueError: an image is damaged, or not of this size.
    """

    def decode(numbered: tuple[int, File]) -> tuple[PurePosixPath, Pixels]:
        index, (path, content) = numbered
        pixels = decode_image(content, path, RGB)
        if size not in (None, pixels.shape[:2]):
            raise ValueError(f"{path}: {pixels.shape[:2]} pixels, not {size}")
        return path, change(pixels, index)

    return in_threads(decode, enumerate(files))


def read_cifar10(source: Path, seed: int) -> Iterator[LabeledImage]:
    """Read cifar-10-binary.tar.gz, or a folder that holds the archive or its files."""
    files = files_in(source, r"(data_batch_\d|test_batch)\.bin", r"cifar-10-binary\.tar\.gz")
    # By name, since the archive has its own order, and a folder may hold a file twice.
    for name, content in sorted({path.name: content for path, content in files}.items()):
        if len(content) % CIFAR10_RECORD:
            raise ValueError(f"{name}: {len(content)} bytes, no multiple of {CIFAR10_RECORD}")
        records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
        images = channels_last(records[:, 1:].reshape(-1, 3, 32, 32))
        for label, image in zip(records[:, 0].tolist(), images, strict=True):
            yield "train" if name.startswith("data") else "test", image, label


def read_imagenet(source: Path, seed: int, *, side: int) -> Iterator[LabeledImage]:
    """Read npz batches, or PNG files in train_SxS and valid_SxS; in folders, zips or tars."""
    batches = r"(train_data_batch_\d+|val_data)\.npz"
    for path, content in files_in(source, batches, rf"Imagenet{side}_.*\.zip"):
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                data = arrays["data"]
            images = channels_last(data.reshape(len(data), 3, side, side))
        except Exception as error:  # a damaged zip or header raises nearly anything
            raise ValueError(f"{path}: {error}") from None
        if images.dtype != np.uint8:
            raise ValueError(f"{path}: data is {images.dtype}, not uint8")
        for image in images:
            yield "train" if path.name.startswith("train") else "test", image, None
    folder = f"(train|valid)_{side}x{side}"
    files = files_in(source, rf"{folder}/.*\.png", rf"{folder}\.(tar|zip)")
    for path, pixels in decode_images(files, size=(side, side)):
        yield "train" if f"train_{side}x{side}" in path.parts else "test", pixels, None


def read_celeba(source: Path, seed: int) -> Iterator[LabeledImage]:
    """Read a folder with img_align_celeba, a folder or .zip, and list_eval_partition.txt."""
    content = next((content for _, content in files_in(source, PARTITION)), b"")
    split_of = {}
    for line in content.decode("ascii", "replace").splitlines():
        file, _, number = line.partition(" ")
        if number.strip() not in {"0", "1", "2"}:
            raise ValueError(f"{source}: {PARTITION}: {line!r} is not a file name and 0, 1 or 2")
        split_of[file] = SPLITS[int(number)]
    files = files_in(source, r"img_align_celeba/.*\.jpg", r"img_align_celeba\.zip")
    faces = decode_images(files, lambda pixels, _: crop_and_scale(pixels), size=(218, 178))
    for path, face in faces:
        if path.name not in split_of:
            raise ValueError(f"{path}: there twice, or not in {PARTITION}")
        yield split_of.pop(path.name), face, None
    if split_of or not content:
        raise ValueError(f"{source}: {next(iter(split_of), PARTITION)} is missing")


def crop_and_scale(pixels: Pixels) -> Pixels:
    """Rows 40:188 and columns 15:163, scaled to (64, 64, 3) as the authors' code does, rounded.

    TensorFlow 1 scales bilinearly, without antialiasing, pixel i of 64 at 148 i / 64.
    """
    face = pixels[40:188, 15:163].astype(np.float64)
    # For each new pixel: the old pixels on both sides, and its share of the way to the second.
    place = np.arange(64) * (len(face) / 64)
    below = place.astype(np.int64)
    above, share = np.minimum(below + 1, len(face) - 1), place - below
    face = face[below] * (1 - share[:, None, None]) + face[above] * share[:, None, None]
    face = face[:, below] * (1 - share[:, None]) + face[:, above] * share[:, None]
    return np.rint(face).astype(np.uint8)


def read_lsun(source: Path, seed: int, *, category: str) -> Iterator[LabeledImage]:
    """Read CATEGORY_train_lmdb and CATEGORY_val_lmdb, or images in folders train and val.

    The smallest side becomes 96, bilinear and antialiased. Training images are stored as 96x96, cut
    along the long side by the seed; training takes random 64x64 crops. Test images are the middle
    64x64.
    """

    def change(split: str, pixels: Pixels, index: int) -> Pixels:
        scaled = smallest_side(pixels, LSUN_STORED)
        if split == "test":
            return center(scaled, 64)
        room = np.array(scaled.shape[:2]) - LSUN_STORED + 1
        top, left = generator(seed, Purpose.SQUARE, index=index).integers(room)
        return scaled[top : top + LSUN_STORED, left : left + LSUN_STORED]

    for split, name in {"train": "train", "test": "val"}.items():
        folder = source / f"{category}_{name}_lmdb"
        if (folder / "data.mdb").exists():
            files = _read_lmdb(folder)
        elif (source / name).is_dir():
            files = files_in(source / name, r".*\.(webp|jpg|jpeg|png)")
        else:
            raise ValueError(f"{source}: no folder {category}_{name}_lmdb (unzipped) or {name}")
        for _, image in decode_images(files, partial(change, split)):
            yield split, image, None


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


PUBLISHED = {
    "cifar10": Published(
        read_cifar10, {"binary version": {"train": 50_000, "test": 10_000}}, CIFAR10_CLASSES
    ),
    "imagenet32": Published(partial(read_imagenet, side=32), IMAGENET_COUNTS),
    "imagenet64": Published(partial(read_imagenet, side=64), IMAGENET_COUNTS),
    "celeba": Published(read_celeba, {"img_align_celeba": CELEBA_COUNTS}),
    **{
        f"lsun-{category.replace('_', '-')}": Published(
            partial(read_lsun, category=category), {"published lmdb": {"train": count, "test": 300}}
        )
        for category, count in LSUN_COUNTS.items()
    },
}
