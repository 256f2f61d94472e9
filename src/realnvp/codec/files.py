"""Picture files to an archive, and an archive to picture files."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from realnvp.codec.archive import Archive, index_of, write
from realnvp.codec.images import check_flow
from realnvp.codec.plan import pixel_type
from realnvp.data.dataset import Pixels, Shape
from realnvp.data.folder import image_files
from realnvp.data.images import codec_sizes, deep_png, read_image, scan_files
from realnvp.flows.flow import Flow, config_of
from realnvp.io.files import DamagedError, atomic_write
from realnvp.progress import counter

# Formats that keep all pixels; of others, PICTURE.jpg becomes PICTURE.jpg.png.
LOSSLESS = {
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
MOST_LOST = 1 << 16  # pictures that are named
BEHIND = 8  # pictures that other formats may be slower by


@dataclass(frozen=True)
class Written:
    """What an archive takes, and what other formats take for the same pictures, one file each."""

    pictures: int
    numbers: int
    """Channels of all pixels together."""
    bytes: int
    bound: float
    """Bits that the flow's bound says; infinite where the flow gives a picture no probability."""
    others: dict[str, int]
    """Bytes, by format: png, webp, and jxl where there is a library for it."""

    def bits_per_dim(self, bits: float) -> float:
        """Bits for each channel of each pixel."""
        return bits / self.numbers


def files_by_name(paths: Sequence[Path], *, deep: bool) -> dict[str, Path]:
    """The picture files of files and folders, by the names that they have in an archive.

    A single folder's pictures are named from there, with /. ValueError: two would be unpacked into
    one file.

    deep: of 16 bits.
    """
    found: dict[str, Path] = {}
    unpacked: dict[str, Path] = {}
    for path in paths:
        above = path if len(paths) == 1 else path.parent
        for file in image_files(path):
            name = file.relative_to(above if path.is_dir() else path.parent).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{file}: an archive's names are Unicode") from None
            target = lossless_name(name, deep=deep)
            if other := unpacked.get(_folded(target)):
                raise ValueError(f"{other}, {file}: would both become {target}")
            found[name] = unpacked[_folded(target)] = file
    return found


def compress_files(flow: Flow, name: str, files: Mapping[str, Path], out: Path) -> Written:
    """Write an archive of picture files, whole or not at all.

    name: what the flow is called.
    files: by the names that they shall have.

    ValueError names all files that cannot be read or have levels that the flow lacks.
    """
    paths = list(files.values())
    shapes = _shapes(paths, config_of(flow).levels)

    def picture(i: int) -> Pixels:
        image = np.moveaxis(read_image(paths[i]), -1, 0)
        if image.shape != shapes[i]:
            raise ValueError(f"{paths[i]}: changed while it was read")
        return image

    index = index_of(flow, shapes, name=name, names=list(files))
    sizes: list[Future[dict[str, int]]] = []

    def pictures(pool: ThreadPoolExecutor) -> Iterator[Pixels]:
        for image in map(picture, range(len(paths))):
            sizes.append(pool.submit(_other_formats, np.moveaxis(image, 0, -1)))
            if len(sizes) > BEHIND:  # or pictures would wait in memory
                sizes[-BEHIND].result()
            yield image

    counting = counter("compress", 2 * index.numbers)
    with atomic_write(out) as file, ThreadPoolExecutor(1) as pool, counting as advance:
        bound = write(file, flow, index, pictures(pool), advance)
    found = [size.result() for size in sizes]
    able = [codec for codec in found[0] if all(codec in each for each in found)]
    others = {codec: sum(each[codec] for each in found) for codec in able}
    return Written(index.count, index.numbers, out.stat().st_size, bound, others)


def _other_formats(image: Pixels) -> dict[str, int]:
    """Bytes by format; none of a picture that one of the formats cannot hold."""
    try:
        return codec_sizes(image)
    except Exception:  # WebP has at most 16,383 rows, and no format here 16 bits
        return {}


def _shapes(files: Sequence[Path], levels: int) -> list[Shape]:
    """(C, H, W) of each file's picture."""

    def look(file: Path) -> Shape:
        image = read_image(file)
        if image.dtype != pixel_type(levels) or image.max() >= levels:
            bits = 8 * image.itemsize
            raise ValueError(
                f"{file}: value {image.max()} of {bits} bits, the flow has {levels} levels"
            )
        height, width, channels = image.shape
        return channels, height, width

    return scan_files(files, look)


def decompress_files(archive: Archive, flow: Flow, out: Path | None) -> list[str]:
    """Write the pictures of an archive into a folder, each whole or not at all.

    out: the folder. None: decode and compare only.

    Pictures that are there already, as an interrupted call leaves them, stay.

    Returns the names of the pictures that are lost to damage. DamagedError: they are too many to
    name. ValueError: another file is in a picture's place, or a name leads out of the folder.
    """
    check_flow(flow)
    deep = config_of(flow).levels > 256

    def targets() -> Iterator[Path]:  # one by one: a small file can claim millions of pictures
        return (_target(out or Path(), name, archive.name, deep) for name in _names(archive))

    if (
        archive.index.names
        and len({_folded(str(path)) for path in targets()}) < archive.index.count
    ):
        raise DamagedError(f"{archive.name}: holds two pictures with one name")
    present = {target for target in targets() if out and target.exists()}
    lost: list[str] = []
    with counter("decompress", archive.index.numbers * (2 if present else 1)) as advance:
        if present:  # before anything is written
            for target, picture in zip(targets(), archive.pictures(flow, advance), strict=True):
                if target in present and picture is not None and not _holds(target, picture):
                    raise ValueError(f"--out: {target} exists already")
        pictures = archive.pictures(flow, advance)
        for name, target, picture in zip(_names(archive), targets(), pictures, strict=True):
            if picture is None:
                lost.append(name)
                if len(lost) > MOST_LOST:
                    lost_of = f"more than {MOST_LOST:,} of its {archive.index.count:,} pictures"
                    raise DamagedError(f"{archive.name}: damaged; {lost_of} are lost")
            elif out and target not in present:
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(target) as file:
                    _save(picture, target, file)
    return lost


def _holds(file: Path, picture: Pixels) -> bool:
    """Whether a file holds this picture, (C, H, W)."""
    try:
        return np.array_equal(np.moveaxis(read_image(file), -1, 0), picture)
    except (OSError, ValueError):
        return False


def _names(archive: Archive) -> Iterator[str]:
    """The pictures' names; numbers where they have none."""
    return iter(archive.index.names or (f"{i:05}.png" for i in range(archive.index.count)))


def _folded(name: str) -> str:
    """The name, equal for names that some file systems hold for one: by case or Unicode's form."""
    return unicodedata.normalize("NFC", name).casefold()


def lossless_name(name: str, *, deep: bool) -> str:
    """The name of the file that a picture of this name is unpacked into.

    deep: of 16 bits, which only PNG keeps here.
    """
    suffixes = [".png"] if deep else LOSSLESS
    return name if PurePosixPath(name).suffix.lower() in suffixes else f"{name}.png"


def _target(folder: Path, name: str, archive: str | Path, deep: bool) -> Path:
    """The path of a picture of this name. DamagedError: out of the folder."""
    path = Path(name)
    if not path.parts or path.anchor or ".." in path.parts or "\0" in name:
        raise DamagedError(f"{archive}: holds a picture with the name {name!r}")
    return folder / lossless_name(name, deep=deep)


def _save(picture: Pixels, target: Path, file: BinaryIO) -> None:
    from PIL import Image

    if picture.dtype == np.uint16:
        file.write(deep_png(np.moveaxis(picture, 0, -1)))
        return
    image = Image.fromarray(picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1).copy())
    kind = LOSSLESS[target.suffix.lower()]
    image.save(file, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
