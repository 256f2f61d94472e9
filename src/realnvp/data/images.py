"""One image file to pixels, or the reason why not; pixels brought to one size."""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from realnvp.config.errors import Reasons
from realnvp.config.reading import AS_FOUND, Reading, rgb_of
from realnvp.config.remedies import as_colours
from realnvp.config.words import count_of, listed, reason
from realnvp.data.dataset import Pixels

if TYPE_CHECKING:
    from PIL import Image


# From here on Pillow speaks of decompression bombs; 89 million pixels are 268 MB of RGB.
MAX_PIXELS = 89_478_485
DETAILED = 3  # files that one line describes


class RefusedImage(ValueError):
    """A picture that cannot be used: "name: why: remedy".

    remedy: the flag that helps. "": none does.
    several: why it and others cannot be used, where that is said in other words.
    detail: what is then said of each of them.
    """

    def __init__(
        self, name: object, why: str, remedy: str = "", *, several: str = "", detail: str = ""
    ) -> None:
        super().__init__(": ".join([str(name), why, *[remedy] * bool(remedy)]))
        self.name, self.why, self.remedy = str(name), why, remedy
        self.several = several or why
        self.detail = detail or why

    def of(self, name: object) -> "RefusedImage":
        """The same of the file of this name."""
        return RefusedImage(name, self.why, self.remedy, several=self.several, detail=self.detail)


def by_reason(refused: Iterable[RefusedImage]) -> Reasons:
    """One line for each reason: how many files, the first, and the flag that helps.

    A single line, if there is no more than one file for each.
    """
    alike: dict[tuple[str, str], list[RefusedImage]] = {}
    for each in refused:
        # Where a file is truncated makes no other reason.
        alike.setdefault((re.sub(r"\d+", "", each.several), each.remedy), []).append(each)
    lines = [str(same[0]) if len(same) == 1 else _together(same) for same in alike.values()]
    several = max(map(len, alike.values())) > 1
    return Reasons(lines if several else ["; ".join(lines)])


def _together(refused: Sequence[RefusedImage]) -> str:
    """One line for files that cannot be used for one reason, with what differs between them."""
    first, remedy = refused[0], f": {refused[0].remedy}" * bool(refused[0].remedy)
    count = f"{len(refused):,} files: {first.several}, first "
    if first.several == first.why:
        return f"{count}{first.name}{remedy}"
    return f"{count}{listed([f'{each.name}: {each.detail}' for each in refused], DETAILED)}{remedy}"


def read_image(path: Path, reading: Reading = AS_FOUND) -> Pixels:
    """The pixels of an image file, (H, W, C), turned upright by its EXIF tag.

    uint8, or uint16 where a channel has 16 bits. C is 1 for grey, 3 for colour.

    RefusedImage: it is damaged or no still image, or `reading` does not say how to read it.
    """
    if not path.is_file():
        raise RefusedImage(path, why_no_file(path))
    return decode_image(path, path, reading)


def why_no_file(path: Path) -> str:
    """Words for a path that is no regular file."""
    there = path.exists() and not path.is_dir()
    return "a pipe or a device; save it as a file first" if there else "no such file"


def decode_image(file: Path | BinaryIO, name: str | Path, reading: Reading = AS_FOUND) -> Pixels:
    """`read_image` of an open file; `name` is what the error calls it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            _check_header(image)
            # Of 16-bit colour Pillow itself keeps the upper byte alone, which is what 8 bits keep.
            grey = image.mode.startswith("I")
            deep = _is_deep(image) and (grey or reading.depth != 8)
            pixels, alpha = _deep(image, file) if deep else _shallow(image, reading)
        return read_as(reading, pixels, alpha)
    except RefusedImage as error:
        raise error.of(name) from None
    except UnidentifiedImageError:
        why = "not an image that Pillow can read"
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        why = reason(error)
    raise RefusedImage(name, why)


def _check_header(image: "Image.Image") -> None:
    """ValueError for what can be refused before anything is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} exceeds limit of {MAX_PIXELS} pixels")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"{frames} frames; one still image is needed")


Planes = tuple[Pixels, Pixels | None]
"""Grey or colour, (H, W, C), and how opaque each pixel is, (H, W); None: all of them are."""


def _shallow(image: "Image.Image", reading: Reading) -> Planes:
    """The planes of an image of 8 bits a channel."""
    mode, image = image.mode, _upright(image)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        pixels = rgba[..., :3] if mode not in ("L", "LA") else rgba[..., :1]
        return pixels, rgba[..., 3]
    if mode in ("CMYK", "YCbCr") and not reading.colours:
        raise RefusedImage("", f"mode {mode}", "--colours rgb")
    if mode in ("1", "P", "CMYK", "YCbCr"):
        image = image.convert("L" if mode == "1" else "RGB")
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"mode {image.mode}; grey or RGB of 8 or 16 bits is needed")
    return np.asarray(image).reshape(image.height, image.width, -1), None


def _is_deep(image: "Image.Image") -> bool:
    """Whether a channel has 16 bits.

    Pillow turns 16-bit colour into mode RGB without a word. Only the arguments of its decoder
    still tell: a raw mode such as RGB;16B, or the largest value of a PPM.
    """
    for codec, _, _, arguments in getattr(image, "tile", []):
        largest = arguments[-1] if codec.startswith("ppm") and isinstance(arguments, tuple) else 255
        if largest > 255 or re.search(r";16[BLNS]?\b", str(arguments)):
            return True
    return image.mode.startswith("I")


def _deep(image: "Image.Image", file: Path | BinaryIO) -> Planes:
    """The planes of an image of 16 bits a channel, uint16."""
    if image.mode.startswith("I"):
        grey = np.asarray(_upright(image))[..., None]
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("more than 16 bits per channel")
        clear = image.info.get("transparency")
        grey = grey.astype(np.uint16)
        return grey, None if clear is None else np.uint16(65535) * (grey[..., 0] != clear)
    planes = _both_bytes(image, file)
    return planes[..., :3], planes[..., 3] if planes.shape[-1] == 4 else None


def _both_bytes(image: "Image.Image", file: Path | BinaryIO) -> npt.NDArray[np.uint16]:
    """16-bit colour, (H, W, 3 or 4). Pillow keeps the upper byte alone of each number.

    Read as if in the other byte order, it keeps the lower.
    """
    from PIL import Image

    def swapped(tile: Any) -> Any:
        codec, extents, offset, arguments = tile
        first, *rest = [arguments] if isinstance(arguments, str) else arguments
        mode, mark, order = str(first).rpartition(";16")
        if not mark or mode not in ("RGB", "RGBA") or "transparency" in image.info:
            raise RefusedImage(
                "", f"16-bit colour of which 8 bits are read ({image.format})", "--depth 8"
            )
        big = order == "B" or (order == "N" and sys.byteorder == "big")
        first = f"{mode};16{'L' if big else 'B'}"
        other = first if isinstance(arguments, str) else (first, *rest)
        return getattr(type(tile), "_make", tuple)((codec, extents, offset, other))

    tiles = [swapped(tile) for tile in image.tile]  # type: ignore[attr-defined]  # of its files
    planes: npt.NDArray[np.uint16] = np.asarray(_upright(image)) * np.uint16(256)
    if not isinstance(file, Path):
        file.seek(0)
    with Image.open(file) as again:
        again.tile = tiles
        return planes + np.asarray(_upright(again))


def _upright(image: "Image.Image") -> "Image.Image":
    """The image, decoded and turned by its EXIF tag."""
    from PIL import ImageOps

    image.load()  # verify() would let truncated files pass
    return ImageOps.exif_transpose(image)


def read_as(reading: Reading, pixels: Pixels, alpha: Pixels | None = None) -> Pixels:
    """Opaque pixels, (..., H, W, C), of the depth and the colours that the reading asks for.

    alpha: how opaque they are, (..., H, W). None: they are opaque.
    """
    if alpha is not None and alpha.min() < np.iinfo(alpha.dtype).max:
        if reading.background is None:
            raise RefusedImage("", "transparent pixels", "--background white")
        pixels = _on_background(pixels, alpha, rgb_of(reading.background))
    if reading.depth == 8 and pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if reading.depth == 16 and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    if reading.colours == "grey" and pixels.shape[-1] == 3:
        # The luma of ITU-R BT.601, in 16 binary digits as Pillow rounds it.
        luma = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        pixels = ((luma + 0x8000) >> 16).astype(pixels.dtype)[..., None]
    return rgb(pixels) if reading.colours == "rgb" else pixels


def _on_background(pixels: Pixels, alpha: Pixels, colour: tuple[int, ...]) -> Pixels:
    """The pixels in front of a colour, rounded to the nearest level; grey stays grey on grey."""
    largest = int(np.iinfo(pixels.dtype).max)
    behind = np.array(colour[:1] if len({*colour}) == 1 else colour, np.uint32) * (largest // 255)
    share = alpha[..., None].astype(np.uint32)
    mixed = pixels * share + behind * (largest - share)
    return ((mixed + largest // 2) // largest).astype(pixels.dtype)


def rgb(pixels: Pixels) -> Pixels:
    """(H, W, 3), of grey or colour."""
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels, 3, axis=-1)


def check_fit(pixels: Pixels, *, channels: int, levels: int, name: object) -> None:
    """RefusedImage: an image (H, W, C) is not of the channels and grey levels that a flow knows."""
    height, width, has = pixels.shape
    if has != channels:
        raise RefusedImage(
            name,
            f"{height}x{width} with {count_of(has, 'channel')}, "
            f"but the flow was trained on {channels}",
            as_colours(channels),
            several=f"{count_of(has, 'channel')}, but the flow was trained on {channels}",
        )
    bits, known = 8 * pixels.dtype.itemsize, 16 if levels > 256 else 8
    if bits != known:
        raise RefusedImage(
            name,
            f"{bits} bits per channel, the flow was trained on {known} bits",
            f"--depth {known}",
        )
    if (largest := int(pixels.max())) >= levels:
        raise RefusedImage(
            name, f"has the value {largest}, but the flow knows the levels 0 to {levels - 1}"
        )


Size = tuple[int, ...]
"""(SIDE,) or (height, width)."""


def to_size(pixels: Pixels, *, resize: Size | None, crop: Size | None = None) -> Pixels:
    """The image, scaled and then cut.

    resize: (height, width), or (SIDE,) of the smallest side.
    crop: (height, width) or (SIDE,) of the middle. None: the SIDE that it was resized to.

    ValueError if it is too small for the crop.
    """
    if resize and len(resize) == 1:
        pixels, crop = smallest_side(pixels, *resize), crop or resize
    elif resize:
        pixels = resized(pixels, *resize)
    return centre(pixels, crop[0], crop[-1]) if crop else pixels


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale to this size, bilinear and antialiased: a pixel averages the pixels it replaces."""
    from PIL import Image

    if height * width > MAX_PIXELS:
        raise ValueError(f"would be {height} high, {width} wide: more than {MAX_PIXELS} pixels")
    size, how = (width, height), Image.Resampling.BILINEAR
    if pixels.dtype == np.uint16:  # Pillow scales no such colour; as floating-point planes it does
        planes: list[Any] = [
            Image.fromarray(plane.astype(np.float32)).resize(size, how)
            for plane in np.moveaxis(pixels, -1, 0)
        ]
        return np.stack(planes, axis=-1).round().astype(np.uint16)
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    return np.asarray(picture.resize(size, how)).reshape(height, width, -1)


def smallest_side(pixels: Pixels, side: int) -> Pixels:
    """Scale until the smallest side is so long; the proportions stay."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    return resized(pixels, max(side, round(scale * height)), max(side, round(scale * width)))


def centre(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle height x width pixels; ValueError if there are not so many."""
    if pixels.shape[0] < height or pixels.shape[1] < width:
        raise ValueError(
            f"is {pixels.shape[0]} high, {pixels.shape[1]} wide: "
            f"too small for a crop of {height}x{width}"
        )
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
