"""Images in memory, and picture files, to archives and back."""

import io
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from realnvp.codec.archive import Archive, Index, index_of, write
from realnvp.codec.plan import pixel_type
from realnvp.config.fields import Config
from realnvp.data.dataset import Pixels, Shape, Split, channels_first
from realnvp.data.folder import image_files
from realnvp.data.images import deep_png, read_image, scan_files
from realnvp.evaluation.likelihood import BITS_PER_DIM, unit_of
from realnvp.flows.flow import Flow, config_of, refuse_fast
from realnvp.io.files import DamagedError, atomic_write
from realnvp.progress import counter

MOST = 1024
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
Images = Pixels | Tensor | Sequence[Pixels | Tensor]


def compress(flow: Flow, images: Images) -> bytes:
    """Code images without loss: about `bits_per_dim` bits for each channel of each pixel.

    The bytes are decoded and compared before they are returned. They are the content of a file that
    `realnvp decompress` reads.

    images: an array or tensor (N, C, H, W), or a list of (C, H, W) of any sizes. uint8; uint16 for
        a flow of more than 256 levels. Gray images fit a flow of colors, and colors one of gray.

    ValueError: the images are not of this kind, or have more levels than the flow.
    """
    check_flow(flow)
    pictures = [_pixels(image, config_of(flow)) for image in images]
    if not pictures:
        raise ValueError("images: there are none")
    kind = "array" if isinstance(images, np.ndarray) else "list"
    if isinstance(images, Tensor):
        kind = "tensor"
    shapes = [(*picture.shape,) for picture in pictures]
    index = index_of(flow, shapes, given_as=kind)
    file = io.BytesIO()
    write(file, flow, index, pictures, lambda _: None)
    return file.getvalue()


def decompress(flow: Flow, data: bytes) -> Images:
    """The array, tensor or list that `compress` was given; of a file a list of (C, H, W).

    ValueError: the data need another flow, or are none of `compress`. DamagedError: they have
    changed.
    """
    check_flow(flow)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"data: expected bytes of compress, got {type(data).__name__}")
    archive = Archive(io.BytesIO(data), "data")
    images, lost = list[Pixels](), 0
    for image in archive.pictures(flow, lambda _: None):
        if image is None:
            lost += 1
        else:
            images.append(image)
    if lost:
        raise DamagedError(f"data: damaged: {lost} of {archive.index.count} images are lost")
    if archive.index.given_as == "array":
        return np.stack(images)
    return torch.from_numpy(np.stack(images)) if archive.index.given_as == "tensor" else images


def file_bits_per_dim(flow: Flow, split: Split) -> float | None:
    """Bits/dim of an archive of a split's images, the first 1,024 of them at most; all its bytes.

    None: this flow has no integer form.
    """
    images = channels_first(split[: min(len(split), MOST)])
    shapes = [(*image.shape,) for image in images]
    file, index = io.BytesIO(), index_of(flow, shapes)
    with counter("compress", 2 * index.numbers) as advance:
        try:
            write(file, flow, index, images, advance)
        except ValueError:
            return None
    return 8 * len(file.getvalue()) / images.size


def check_flow(flow: Flow, name: str = "flow") -> None:
    """Check that a flow can compress. ValueError: it is a fast copy, or of a table."""
    refuse_fast(flow, "compress with")
    if unit_of(config_of(flow)) is not BITS_PER_DIM:
        raise ValueError(f"{name}: is of a table; the codec is for images")


def _pixels(image: Pixels | Tensor, config: Config) -> Pixels:
    """An image as an array. ValueError: the flow does not take it."""
    pixels = image.numpy(force=True) if isinstance(image, Tensor) else np.asarray(image)
    levels, wanted = config.levels, pixel_type(config.levels)
    if pixels.dtype != wanted or pixels.ndim != 3 or not pixels.size:
        raise ValueError(
            f"images: expected {wanted} (C, H, W) each, got {pixels.dtype} of shape {pixels.shape}"
        )
    if len(pixels) not in (1, 3, config.shape[0]):
        raise ValueError(f"images: expected (C, H, W) with C of 1 or 3 each, got {pixels.shape}")
    if pixels.max() >= levels:
        raise ValueError(
            f"images: a pixel is {pixels.max()}, but the flow knows the levels 0 to {levels - 1}"
        )
    return pixels


def files_by_name(paths: Sequence[Path], *, deep: bool) -> dict[str, Path]:
    """The picture files of files and folders, by the names that they have in an archive.

    A single folder's pictures are named from there, with /.
    deep: the flow has 16 bits. ValueError: two would be unpacked into one file.
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


def compress_files(
    flow: Flow, name: str, files: Mapping[str, Path], out: Path
) -> tuple[Index, float]:
    """Write an archive of picture files, whole or not at all. Returns its index and `write`'s bits.

    name: of the flow.
    files: by the names that they shall have.

    ValueError names the first file that cannot be read or has levels that the flow lacks.
    """
    paths = list(files.values())
    shapes = _shapes(paths, config_of(flow).levels)

    def picture(path: Path, shape: Shape) -> Pixels:
        image = np.moveaxis(read_image(path), -1, 0)
        if image.shape != shape:
            raise ValueError(f"{path}: changed while it was read")
        return image

    index = index_of(flow, shapes, name=name, names=list(files))
    counting = counter("compress", 2 * index.numbers)
    with atomic_write(out) as file, counting as advance:
        return index, write(file, flow, index, map(picture, paths, shapes), advance)


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
    name, or a name leads out of the folder. ValueError: another file is in a picture's place.
    """
    check_flow(flow)
    index, deep = archive.index, config_of(flow).levels > 256
    for name in index.names or ():
        path = Path(name)
        if not path.parts or path.anchor or ".." in path.parts or "\0" in name:
            raise DamagedError(f"{archive.name}: holds a picture with the name {name!r}")
    names = [_folded(str(Path(lossless_name(name, deep=deep)))) for name in index.names or ()]
    if len({*names}) < len(names):
        raise DamagedError(f"{archive.name}: holds two pictures with one name")
    lost: list[str] = []
    with counter("decompress", index.numbers) as advance:
        for i, picture in enumerate(archive.pictures(flow, advance)):
            name = index.names[i] if index.names else f"{i:05}.png"
            target = (out or Path()) / lossless_name(name, deep=deep)
            if picture is None:
                lost.append(name)
                if len(lost) > MOST_LOST:  # a small file can claim millions of pictures
                    raise DamagedError(f"{archive.name}: damaged; {MOST_LOST:,} pictures are lost")
            elif out and target.exists():
                if not np.array_equal(np.moveaxis(read_image(target), -1, 0), picture):
                    raise ValueError(f"--out: {target} exists already")
            elif out:
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(target) as file:
                    _save(picture, target, file)
    return lost


def _folded(name: str) -> str:
    """The name, equal for names that some file systems hold for one: by case or Unicode's form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def lossless_name(name: str, *, deep: bool) -> str:
    """The file that a picture of this name is unpacked into; only PNG keeps 16 bits (deep)."""
    suffixes = [".png"] if deep else LOSSLESS
    return name if PurePosixPath(name).suffix.lower() in suffixes else f"{name}.png"


def _save(picture: Pixels, target: Path, file: BinaryIO) -> None:
    from PIL import Image

    if picture.dtype == np.uint16:
        file.write(deep_png(np.moveaxis(picture, 0, -1)))
        return
    image = Image.fromarray(picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1).copy())
    kind = LOSSLESS[target.suffix.lower()]
    image.save(file, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
