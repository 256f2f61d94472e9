"""Stream the published files of a data set into a prepared folder.

Archives are read member by member; nothing is extracted to disk.
"""

import hashlib
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from realnvp.config.fields import DecodeOptions
from realnvp.data.dataset import SPLITS, Dataset, Pixels, npy_header, open_npy
from realnvp.data.images import decode_image
from realnvp.data.prepared import new_folder, write_description
from realnvp.progress import track

LabeledImage = tuple[str, Pixels, int | None]
"""Split, pixels (H, W, 3), and class index; None: the data set has no classes."""
File = tuple[PurePosixPath, bytes]
"""Path and content."""
RGB = DecodeOptions(color_mode="rgb", bit_depth=8)
IN_FLIGHT = 1024  # image files in memory


@dataclass(frozen=True)
class Published:
    """The images of a published data set, read once, in order."""

    images: Iterator[LabeledImage]
    counts: Mapping[str, Mapping[str, int]]
    """By version: the published number of images of each split."""
    paper_version: str
    """The version that the paper's bits/dim are about."""
    class_names: tuple[str, ...] | None = None
    md5: Mapping[str, str] = field(default_factory=dict)
    """Published checksums by file name."""


def write_published(
    found: Published, name: str, source: Path, out: Path, *, allow_partial: bool, seed: int
) -> dict[str, Any]:
    """Write the prepared folder `out`, whole or not at all, and return its dataset.json.

    allow_partial: accept other checksums and numbers of images than the published ones.

    Raises:
        ValueError: a file is damaged or missing, or `out` holds something.
    """
    with new_folder(out) as folder:
        if not allow_partial:
            _check_md5(source, found.md5)
        total = sum(next(iter(found.counts.values())).values())
        labels = _write_arrays(track(found.images, "images", total=total), folder)
        paths = {split: folder / f"{split}.npy" for split in SPLITS}
        splits = {split: open_npy(path) for split, path in paths.items() if path.exists()}
        counts = {split: len(images) for split, images in splits.items()}
        version = _find_version(counts, found.counts, source, allow_partial=allow_partial)
        train_shape, shape = [
            (images.shape[3], *images.shape[1:3]) for images in (splits["train"], splits["test"])
        ]
        dataset = Dataset(
            name,
            version,
            levels=256,
            shape=shape,
            splits=splits,
            train_shape=train_shape if train_shape != shape else None,
            comparable=version == found.paper_version,
            labels=labels or None,
            class_names=found.class_names,
        )
        about = {"name": name, "source": source.absolute().name, "val_fraction": None, "seed": seed}
        return write_description(dataset, about, folder)


def _check_md5(source: Path, published: Mapping[str, str]) -> None:
    for name, expected in published.items():
        for path in [source] if source.name == name else source.rglob(name):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "md5").hexdigest()
            if digest != expected:
                raise ValueError(f"{path}: MD5 {digest}, the published file has {expected}")


def _find_version(
    counts: dict[str, int], published: Mapping[str, Any], source: Path, *, allow_partial: bool
) -> str:
    """The version with these numbers of images; ValueError: no version has them."""
    first = next(iter(published))
    if allow_partial and counts.keys() == published[first].keys():
        return f"{first}, partial"
    for version in published:
        if published[version] == counts:
            return version
    expected = " or ".join(map(str, published.values()))
    raise ValueError(f"{source}: holds {counts} images, published are {expected}")


def _write_arrays(images: Iterable[LabeledImage], folder: Path) -> dict[str, Any]:
    """Append each image to the .npy file of its split; returns the class indices by split."""
    files: dict[str, BinaryIO] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    labels: dict[str, list[int | None]] = {}
    with ExitStack() as stack:
        for split, image, label in images:
            if split not in files:
                files[split] = stack.enter_context((folder / f"{split}.npy").open("wb"))
                shapes[split], labels[split] = image.shape, []
                files[split].write(npy_header((0, *image.shape), "|u1"))
            files[split].write(image.tobytes())
            labels[split].append(label)
        for split, file in files.items():
            file.seek(0)
            # numpy's header has 128 bytes for any number of images.
            file.write(npy_header((len(labels[split]), *shapes[split]), "|u1"))
    return {split: np.array(each) for split, each in labels.items() if None not in each}


def files_in(source: Path, pattern: str, archives: str = "") -> Iterator[File]:
    """Path and content of files in a folder, a .zip or a tar, or in the archives in a folder.

    Paths are relative to the source and begin with the name of the archive. Numbers in them sort
    as numbers; a tar keeps its own order. Hidden files are skipped.

    pattern: regular expression of the paths, from their beginning or after any slash.
    archives: regular expression of the names of a folder's archives.

    Raises:
        ValueError: an archive is damaged.
    """
    wanted = re.compile(rf"(?!\.[^/]|.*/\.)(.*/)?({pattern})")
    if source.is_dir():
        for file in sorted(source.rglob("*"), key=_natural):
            path = file.relative_to(source).as_posix()
            if archives and re.fullmatch(archives, file.name):
                yield from files_in(file, pattern)
            elif wanted.fullmatch(path) and file.is_file():
                yield PurePosixPath(path), file.read_bytes()
        return
    try:
        for path, content in (_read_zip if source.suffix == ".zip" else _read_tar)(source, wanted):
            yield PurePosixPath(source.name, path), content
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise ValueError(f"{source}: {error}") from None


def _natural(path: Path | str) -> list[str | int]:
    """Sort key: batch_10 comes after batch_9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _read_zip(source: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(source) as archive:
        for name in sorted(archive.namelist(), key=_natural):
            if wanted.fullmatch(name):
                yield name, archive.read(name)


def _read_tar(source: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(source, "r|*") as archive:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # a million take a gigabyte
            if member.isfile() and wanted.fullmatch(member.name):
                content = archive.extractfile(member)
                assert content
                yield member.name, content.read()


def decode_images(
    files: Iterable[File], change: Callable[[Pixels, int], Pixels]
) -> Iterator[tuple[PurePosixPath, Pixels]]:
    """Path and pixels, uint8 (H, W, 3), of each image file, in order, decoded on all cores.

    change: (pixels, index of the file) -> pixels.

    Raises:
        ValueError: an image is damaged, or `change` raises for it; the message names the file.
    """

    def decode(numbered: tuple[int, File]) -> tuple[PurePosixPath, Pixels]:
        index, (path, content) = numbered
        pixels = decode_image(io.BytesIO(content), str(path), RGB)
        try:
            return path, change(pixels, index)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    numbered = enumerate(files)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(numbered, IN_FLIGHT)):
            yield from pool.map(decode, some)
