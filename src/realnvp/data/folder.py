"""The user's own images: an .npy file, a folder of .npy files, or folders of image files."""

import mimetypes
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from realnvp.config.errors import ParameterError, as_colours, as_uint8, count_of
from realnvp.config.fields import AS_FOUND, DecodeOptions
from realnvp.data.crops import Crops, ReadPictures
from realnvp.data.dataset import Dataset, Indices, Lazy, Pixels, Shape, decoded, in_threads
from realnvp.data.images import RefusedImage, by_reason, read_as, read_image, smallest_side, to_size
from realnvp.data.prepared import check_levels, open_npy
from realnvp.progress import progress

Name = TypeVar("Name", str, Path)
Part = TypeVar("Part")
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
SHALLOW, DEEP = 2**8, 2**16  # grey levels of 8 and of 16 bits
LITTLE = 0.5  # of the pixels
MOST_CROPS = 64  # fixed crops of one picture
NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Scanned:
    """What a source holds."""

    splits: dict[str, Any]
    """By name: images, or `ReadPictures` where crops are asked for."""
    shape: Shape
    """Of an image, or of a crop."""
    levels: int
    scaled: tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]] | None = None
    """Height and width of each image file before and after `resize`."""

    def warn_of_lost_pixels(self, resize: int) -> None:
        """Say how many of the pixels a training drops that scales its pictures, if most are."""
        if self.scaled:
            warn_of_lost_pixels(
                f"--resize {resize}",
                *self.scaled,
                f"--crop {self.shape[1]} without it trains on pieces at full resolution",
            )


def scan(
    source: Path,
    *,
    levels: int,
    reading: DecodeOptions = AS_FOUND,
    crop: int | None = None,
    resize: int | None = None,
) -> Scanned:
    """The splits that the source holds, train at least.

    levels: grey levels. 256: as many as the files have, 65,536 where they have 16 bits.
    reading: how image files become pixels.
    crop: the side of crops of pictures of any sizes. None: all images are of one size.
    resize: what image files' smallest side is scaled to; their middle square is taken, or crops.

    Every file is read once. ValueError says which cannot be used and why, or what the source lacks.
    """
    if source.is_file() and source.suffix.lower() == ".npy":
        arrays = {"train": source}
    elif source.is_dir():
        arrays = split_entries({path.stem: path for path in source.glob("*.npy")}, source)
    elif source.exists():
        table = source.suffix.lower() in (".csv", ".tsv", ".parquet")
        hint = "; tables: realnvp train table" if table else ""
        raise ValueError(f"{source}: neither a folder nor an .npy file{hint}")
    else:
        raise ValueError(f"{source}: no such file or folder")
    if arrays:
        if resize:
            raise ParameterError("data.resize", f"is for image files; {source} holds arrays")
        return _scan_arrays(arrays, levels, reading, crop)
    folders = split_entries(
        {path.name: path for path in source.iterdir() if path.is_dir()}, source
    ) or {"train": source}
    names, tops = walk(source), {folder.name for folder in folders.values()}
    outside = [name for name in names if is_image(name) and name.split("/")[0] not in tops]
    files = {split: image_files(folder) for split, folder in folders.items()}

    before: list[tuple[int, int]] = []

    def scaled(pixels: Pixels) -> Pixels:
        if resize:
            return smallest_side(pixels, resize) if crop else to_size(pixels, resize=(resize,))
        return pixels

    def load(path: Path) -> Pixels:
        return scaled(read_image(path, reading))

    def read(path: Path) -> Pixels:
        stored = read_image(path, reading)
        before.append(stored.shape[:2])
        pixels = scaled(stored)
        check_levels(pixels, levels_of(pixels, levels), path=path)
        return pixels

    found = in_common([path for split in files for path in files[split]], read, crop=crop)
    warn_of_left_out(
        source, [] if source in folders.values() else outside, tops, names, hidden(source)
    )
    splits: dict[str, Any] = {}
    sizes = iter(found.sizes)
    for split, paths in files.items():
        of_each = np.array([next(sizes) for _ in paths])
        splits[split] = (ReadPictures if crop else _images)(
            of_each, partial(_unchanged, load, paths, of_each, found)
        )
    return Scanned(
        splits, found.shape, found.levels(levels), (before, found.sizes) if resize else None
    )


def _scan_arrays(
    paths: dict[str, Path], levels: int, reading: DecodeOptions, crop: int | None
) -> Scanned:
    """The splits in .npy files."""

    def look(path: Path) -> Pixels:
        array = _array(path)
        if reading.bit_depth is None:
            check_levels(array, levels_of(array, levels), path=path)
        return read_as(reading, array[0])

    found = in_common(list(paths.values()), look, crop=crop)
    splits: dict[str, Any] = {}
    for split, path in paths.items():
        array = _array(path)
        read = partial(_array_as, reading, array)
        if crop:
            splits[split] = ReadPictures(np.tile(array.shape[1:3], (len(array), 1)), read)
        else:
            splits[split] = Lazy(len(array), read) if reading.chosen() else array
    return Scanned(splits, found.shape, found.levels(levels))


def _array_as(reading: DecodeOptions, array: Pixels, wanted: Any) -> Pixels:
    return read_as(reading, array[wanted])


def _unchanged(
    load: Callable[[Path], Pixels],
    paths: Sequence[Path],
    sizes: Indices,
    found: "Common",
    index: int,
) -> Pixels:
    """Read a picture again: the scan kept no pixels."""
    image = load(paths[index])
    if image.shape != (*sizes[index], found.shape[0]) or (image.dtype == np.uint16) != found.deep:
        raise ValueError(f"{paths[index]}: changed while it was read")
    return image


def _images(sizes: Indices, read: Callable[[int], Pixels]) -> Lazy:
    return decoded(len(sizes), read)


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
            are = "is" if len(left) == 1 else "are"
            warnings.warn(
                f"{source}: {count_of(len(left), thing)} {why} {are} not read, {left[0]} first",
                stacklevel=3,
            )


def warn_of_lost_pixels(
    flag: str, before: Sequence[tuple[int, int]], after: Sequence[tuple[int, int]], cure: str
) -> None:
    """Say how many of the pixels are dropped where a flag brings pictures to a size; if most are.

    before, after: height and width of each picture.
    cure: what keeps them.
    """
    kept = sum(high * wide for high, wide in after) / sum(high * wide for high, wide in before)
    if kept < LITTLE:
        each = {f"{high}x{wide}" for high, wide in before}
        which = f"{each.pop()} pictures" if len(each) == 1 else f"pictures of {len(each)} sizes"
        warnings.warn(
            f"{flag}: drops {100 * (1 - kept):.3g} % of the pixels of {which}; {cure}",
            stacklevel=3,
        )


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted by relative path, as `walk` finds them.

    ValueError: there is none.
    """
    return _images_among(walk(folder), folder)


def pictures_of(path: Path) -> list[Path]:
    """A picture file, or all of a folder; says which are not read. ValueError: there is none."""
    if not path.is_dir():
        return [path]
    names = list(walk(path))
    warn_of_left_out(path, [], (), names, hidden(path))
    return _images_among(names, path)


def _images_among(names: Iterable[str], folder: Path) -> list[Path]:
    """The image files of these. ValueError: there is none."""
    if not (found := [folder / name for name in names if is_image(name)]):
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


def _array(path: Path) -> Pixels:
    """The images in an .npy file, memory-mapped, (N, H, W, C)."""
    array = open_npy(path)
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (3, 4):
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
    return images


def _remedy(array: npt.NDArray[Any]) -> str:
    if array.dtype in (np.uint8, np.uint16):
        return ""
    return f"; {as_uint8('x', array.dtype, numpy=True)}, and np.save"


def levels_of(pixels: Pixels, levels: int) -> int:
    """Grey levels of pixels: those of 16 bits are 65,536, unless fewer than 256 are asked for."""
    return DEEP if pixels.dtype == np.uint16 and levels == SHALLOW else levels


@dataclass(frozen=True)
class Common:
    """What images have in common, and what they have not."""

    shape: Shape
    """(C, H, W), or of a crop (C, crop, crop)."""
    deep: bool
    """Whether a channel has 16 bits."""
    sizes: list[tuple[int, int]]
    """Height and width of each."""

    def levels(self, asked: int) -> int:
        """Grey levels, where so many were asked for. ValueError: the images have 8 bits."""
        if self.deep and asked <= SHALLOW:
            return DEEP
        if asked > SHALLOW and not self.deep:
            raise ValueError(
                f"data.levels: {asked}, but the images have 8 bits per channel; "
                "--bit-depth 16 stretches them"
            )
        return asked


def in_common(
    paths: Sequence[Name],
    read: Callable[[Name], Pixels],
    *,
    crop: int | None = None,
    cure: str = "--crop {side} trains on random crops, --resize {side} on their middle, scaled",
) -> Common:
    """What the images, (H, W, C) each, have in common.

    crop: their sizes may differ, if so many pixels fit into each.
    cure: the flag that helps where sizes differ; {side}: a crop that fits into all.

    Reasons: files cannot be read, or differ from most.
    """

    def look(path: Name) -> tuple[int, int, int, int] | RefusedImage:
        try:
            pixels = read(path)
        except RefusedImage as error:
            return error
        except ValueError as error:
            return RefusedImage(path, str(error).removeprefix(f"{path}: "))
        height, width, channels = pixels.shape
        return height, width, channels, 8 * pixels.dtype.itemsize

    looks: list[tuple[int, int, int, int] | RefusedImage] = []
    # A filter of warnings holds for the whole process, so we set it once, around all threads.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*decompression bomb")
        with progress("file", len(paths)) as report:
            for found in in_threads(look, paths):
                looks.append(found)
                report(len(looks))
    good = [found for found in looks if not isinstance(found, RefusedImage)]
    commonest = partial(_commonest, good)
    channels, bits = commonest(2), commonest(3)
    height, width = (crop, crop) if crop else commonest(slice(0, 2)) or (0, 0)
    smallest = min((min(found[:2]) for found in good), default=0)
    fitting = smallest // 4 * 4 or smallest  # so that a flow of two scales or three can take it

    def refuse(path: Name, found: tuple[int, int, int, int] | RefusedImage) -> RefusedImage | None:
        if isinstance(found, RefusedImage):
            return found
        if found[3] != bits:
            return RefusedImage(
                path, f"{found[3]} bits per channel, most have {bits} bits", "--bit-depth 8"
            )
        if found[2] != channels:
            return RefusedImage(
                path,
                f"{count_of(found[2], 'channel')}, most have {channels}",
                as_colours(channels),
            )
        here, wanted = (f"{high} high, {wide} wide" for high, wide in (found[:2], (height, width)))
        if crop and min(found[:2]) < crop:
            return RefusedImage(
                path,
                f"is {here}: too small for a crop of {crop}x{crop}",
                f"--crop {fitting}",
                several=f"too small for a crop of {crop}x{crop}",
                detail=f"is {here}",
            )
        if not crop and found[:2] != (height, width):
            return RefusedImage(
                path,
                f"is {here}, most are {wanted}",
                cure.format(side=min(32, fitting)),
                several=f"of another size than most, which are {wanted}",
                detail=f"is {here}",
            )
        return None

    refused = (refuse(*each) for each in zip(paths, looks, strict=True))
    if bad := [each for each in refused if each]:
        raise by_reason(bad)
    return Common((channels, height, width), bits == 16, [found[:2] for found in good])


def _commonest(looks: Sequence[tuple[int, ...]], part: int | slice) -> Any:
    counts = Counter(look[part] for look in looks)
    return max(counts, key=lambda value: counts[value], default=None)


def find_split(
    source: Path,
    split: str,
    *,
    levels: int,
    reading: DecodeOptions = AS_FOUND,
    crop: int | None = None,
    resize: int | None = None,
) -> tuple[Dataset, str]:
    """Images outside any run, and the split to take: "all" where the source has no splits.

    crop: fixed crops of pictures of any sizes. None: all images are of one size.
    resize: what their smallest side is scaled to.
    ValueError says which files cannot be used, or which splits there are.
    """
    found = scan(source, levels=levels, reading=reading, crop=crop, resize=resize)
    splits: dict[str, Any]
    splits, split = wanted(found.splits, split, source)
    if crop:
        splits = {name: Crops(each, crop, most=MOST_CROPS) for name, each in splits.items()}
    return Dataset(
        str(source),
        None,
        found.levels,
        found.shape,
        splits,
        comparable=False,
        reading=reading,
        crop=crop,
    ), split


def wanted(splits: dict[str, Part], split: str, source: Path) -> tuple[dict[str, Part], str]:
    """The splits of a source, and the split to take: "all" where there is only train."""
    if set(splits) == {"train"}:
        return {"all": splits["train"]}, "all"
    if split not in splits:
        raise ValueError(f"{source}: has no {split} split, only {' and '.join(splits)}")
    return splits, split
