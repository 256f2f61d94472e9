"""The user's own images: an .npy file, a folder of .npy files, or folders of image files."""

import mimetypes
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from realnvp.config.remedies import as_uint8
from realnvp.config.words import listed
from realnvp.data.dataset import Dataset, Lazy, Pixels, Shape, Split, decoded, in_threads
from realnvp.data.images import read_image
from realnvp.data.prepared import check_levels, open_npy
from realnvp.tools.progress import progress

Name = TypeVar("Name", str, Path)
SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"]
)
UNREAD = frozenset(
    [
        ".avif",
        ".heic",
        ".heif",
        ".jfif",
        ".jp2",
        ".jxl",
        ".arw",
        ".cr2",
        ".cr3",
        ".dng",
        ".nef",
        ".raw",
        ".psd",
    ]
)
MOST = 20  # bad files that one line names
NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def scan(source: Path, *, levels: int) -> tuple[dict[str, Split], Shape]:
    """The splits that the source holds, train at least, and their common (C, H, W).

    Every file is read once. ValueError names all bad ones, or says what the source lacks.
    """
    if source.is_file() and source.suffix.lower() == ".npy":
        arrays = {"train": source}
    elif source.is_dir():
        arrays = split_entries({path.stem: path for path in source.glob("*.npy")}, source)
    elif source.exists():
        raise ValueError(f"{source}: neither a folder nor an .npy file")
    else:
        raise ValueError(f"{source}: no such file or folder")
    if arrays:
        shape = common_shape(list(arrays.values()), lambda path: _array(path, levels))
        return {split: _array(path, 256) for split, path in arrays.items()}, shape
    folders = split_entries(
        {path.name: path for path in source.iterdir() if path.is_dir()}, source
    ) or {"train": source}
    names, tops = walk(source), {folder.name for folder in folders.values()}
    outside = [name for name in names if is_image(name) and name.split("/")[0] not in tops]
    files = {split: image_files(folder) for split, folder in folders.items()}
    shape = common_shape(
        [path for split in files for path in files[split]], lambda path: _image(path, levels)
    )
    warn_of_left_out(
        source, [] if source in folders.values() else outside, tops, names, hidden(source)
    )
    return {split: _decoded(paths, shape) for split, paths in files.items()}, shape


def warn_of_left_out(
    source: Path,
    outside: Sequence[str],
    folders: Iterable[str],
    names: Sequence[str],
    hidden: Sequence[str],
) -> None:
    """Say which pictures of a source are not read: one line for each reason.

    outside: names of the pictures beside the folders of the splits.
    names: of all files.
    hidden: of hidden files, and of folders that are links.
    """
    # macOS's notes on files begin with "._".
    pictures = [
        name for name in hidden if is_image(name) and not PurePosixPath(name).name.startswith("._")
    ]
    for thing, why, left in [
        ("image", f"outside {', '.join(sorted(folders))}", outside),
        ("image", "of other formats", [name for name in names if _is_other_image(name)]),
        ("image", "hidden by name", pictures),
        ("linked folder", "with all in it", [name for name in hidden if name.endswith("/")]),
    ]:
        if left:
            count, are = (
                (f"1 {thing}", "is") if len(left) == 1 else (f"{len(left):,} {thing}s", "are")
            )
            warnings.warn(f"{source}: {count} {why} {are} not read, {left[0]} first", stacklevel=3)


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted by relative path, as `walk` finds them.

    ValueError: there is none.
    """
    if not (found := [folder / name for name in walk(folder) if is_image(name)]):
        raise ValueError(f"{folder}: no image files in it ({' '.join(sorted(SUFFIXES))})")
    return found


def _is_other_image(name: str) -> bool:
    """Whether a file of this name is an image of a kind that is not read."""
    suffix = PurePosixPath(name).suffix.lower()
    kind = mimetypes.guess_type(f"x{suffix}")[0] or ""
    return suffix not in SUFFIXES and (kind.startswith("image/") or suffix in UNREAD)


def is_image(name: str) -> bool:
    """Whether a file of this name should be an image."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def walk(folder: Path) -> list[str]:
    """The relative paths of the files below a folder, sorted; none hidden or in linked folders."""
    return sorted(name for name, seen in _walk(folder) if seen)


def hidden(folder: Path) -> list[str]:
    """What `walk` leaves out: hidden files, files in hidden folders, linked folders ("name/")."""
    return sorted(name for name, seen in _walk(folder) if not seen)


def is_hidden(name: str) -> bool:
    """Whether a path leads to something hidden."""
    return any(part.startswith(".") for part in name.split("/"))


def _walk(folder: Path) -> Iterator[tuple[str, bool]]:
    """All files below a folder, and whether they are to be seen; linked folders are not."""

    def refuse(error: OSError) -> None:
        if not is_hidden(Path(error.filename).relative_to(folder).as_posix()):
            raise ValueError(f"{error.filename}: {error.strerror}")

    for parent, inner, names in os.walk(folder, onerror=refuse):
        above = Path(parent).relative_to(folder).as_posix()
        start = "" if above == "." else f"{above}/"
        yield from ((f"{start}{name}", not is_hidden(f"{start}{name}")) for name in names)
        yield from ((f"{start}{name}/", False) for name in inner if Path(parent, name).is_symlink())


def split_entries(entries: dict[str, Path], source: Path) -> dict[str, Path]:
    """The entries of a folder that are named like a split.

    ValueError: there are some, but none for train.
    """
    found = {split: entries[name] for name, split in reversed(NAMES.items()) if name in entries}
    if found and "train" not in found:
        raise ValueError(
            f"{source}: holds {' and '.join(path.name for path in found.values())}, "
            "but nothing named train"
        )
    return found


def _array(path: Path, levels: int) -> Pixels:
    """The images in an .npy file, memory-mapped, uint8 (N, H, W, C)."""
    array = open_npy(path)
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise ValueError(
            f"{path}: {array.dtype} of shape {array.shape}; uint8 (N, H, W) or (N, H, W, "
            f"C) is needed{_remedy(array)}"
        )
    images = array[..., None] if array.ndim == 3 else array
    if images.shape[-1] not in (1, 3):
        hint = (
            "; channels first? transpose it: np.moveaxis(x, 1, -1)"
            if images.shape[1] in (1, 3)
            else ""
        )
        raise ValueError(
            f"{path}: shape {array.shape} has {images.shape[-1]} channels at its end, "
            f"not 1 or 3{hint}"
        )
    check_levels(images, levels, path=path)
    return images


def _remedy(array: npt.NDArray[Any]) -> str:
    if array.dtype == np.uint8:
        return ""
    return f"; {as_uint8('x', array.dtype, numpy=True)}, and np.save"


def _image(path: Path, levels: int) -> Pixels:
    """The image in a file, as a batch of one."""
    pixels = read_image(path)[None]
    check_levels(pixels, levels, path=path)
    return pixels


def common_shape(paths: Sequence[Name], read: Callable[[Name], Pixels]) -> Shape:
    """(C, H, W) of the images.

    ValueError names the files that cannot be read or have another shape than most, in one line.
    """

    def look(path: Name) -> tuple[int, ...] | str:
        try:
            return read(path).shape[1:]
        except ValueError as error:
            return str(error)

    looks: list[tuple[int, ...] | str] = []
    # A filter of warnings holds for the whole process, so we set it once, around all threads.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*decompression bomb")
        with progress("file", len(paths)) as report:
            for found in in_threads(look, paths):
                looks.append(found)
                report(len(looks))
    shapes = Counter(found for found in looks if isinstance(found, tuple))
    common = max(shapes, key=lambda shape: shapes[shape], default=(0, 0, 0))
    if bad := [
        found
        if isinstance(found, str)
        else f"{path}: is {_words(found)}, most are {_words(common)}"
        for path, found in zip(paths, looks, strict=True)
        if found != common
    ]:
        raise ValueError(
            listed(bad, MOST) + (f" ({len(bad)} bad files)" if len(bad) > MOST else "")
        )
    height, width, channels = common
    return channels, height, width


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} high, {shape[1]} wide with {shape[2]} channel{'s' * (shape[2] > 1)}"


def _decoded(files: Sequence[Path], shape: Shape) -> Lazy:
    """The split whose images are decoded when they are read: the scan kept no pixels."""

    def one(index: int) -> Pixels:
        image = read_image(files[index])
        if image.shape != (*shape[1:], shape[0]):
            raise ValueError(f"{files[index]}: changed while it was read")
        return image

    return decoded(len(files), one)


def find_split(source: Path, split: str, *, levels: int) -> tuple[Dataset, str]:
    """Images outside any run, and the split to take: "all" where the source has no splits.

    ValueError names all bad files, or says which splits there are.
    """
    splits, shape = scan(source, levels=levels)
    splits, split = wanted(splits, split, source)
    return Dataset(str(source), None, levels, shape, splits, comparable=False), split


def wanted(splits: dict[str, Split], split: str, source: Path) -> tuple[dict[str, Split], str]:
    """The splits of a source, and the split to take: "all" where there is only train."""
    if set(splits) == {"train"}:
        return {"all": splits["train"]}, "all"
    if split not in splits:
        raise ValueError(f"{source}: has no {split} split, only {' and '.join(splits)}")
    return splits, split
