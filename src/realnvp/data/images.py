"""One image file to pixels, or the reason why not; pixels brought to one size."""

import io
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from realnvp.config.errors import Reasons, as_colours, count_of, listed, reason
from realnvp.config.fields import AS_FOUND, DecodeOptions, rgb_of
from realnvp.data.dataset import Pixels

Bytes = npt.NDArray[np.uint8]
KINDS = {1: 0, 3: 2, 4: 6}  # channels to PNG's colour type: grey, RGB, RGBA


def deep_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of (H, W, C) with 1, 3 or 4 channels (PNG specification, third edition, section 11)."""
    height, width, channels = pixels.shape
    rows = _filtered(
        np.frombuffer(pixels.astype(">u2").tobytes(), np.uint8).reshape(height, -1), 2 * channels
    )
    header = struct.pack(">IIBBBBB", width, height, 16, KINDS[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, data)
        for name, data in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def _filtered(raw: Bytes, pixel: int) -> Bytes:
    """The rows, each after the number of its filter: none, the pixel to the left, the row above.

    The filter whose bytes, as signed, have the least sum of absolute values (section 12.7).
    """
    left, above = raw.copy(), raw.copy()
    left[:, pixel:] -= raw[:, :-pixel]
    above[1:] -= raw[:-1]
    all_three = np.stack([raw, left, above])
    best = abs(all_three.view(np.int8).astype(np.int64)).sum(-1).argmin(0)
    rows = all_three[best, np.arange(len(raw))]
    return np.concatenate([best[:, None].astype(np.uint8), rows], axis=1)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# Of drawings that repeat themselves the first is smallest, of small pictures the second.
WEBP_METHODS = 0, 4, 5, 6


def codec_bits_per_dim(images: Pixels) -> dict[str, float]:
    """{"png": ..., "webp": ...}: bits per dimension, mean over the images.

    Each image is a whole file, its header included. JPEG XL, jxl, is there where imagecodecs or
    pillow-jxl-plugin is installed.

    images: uint8 (N, H, W, C) with C of 1 or 3; all formats as small as their settings make them.
    """
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(codec_sizes, images))
    numbers = np.prod(images.shape[1:])
    return {name: float(np.mean([8 * each[name] for each in sizes]) / numbers) for name in sizes[0]}


def codec_sizes(image: Pixels, *, thorough: bool = True) -> dict[str, int]:
    """Bytes of an image, (H, W, C), as PNG, WebP and, where there is a library, JPEG XL.

    Of 16 bits per channel: as PNG.
    thorough: with WebP's longest search, which takes most of the time and seldom finds less.
    """
    if image.dtype == np.uint16:
        return {"png": len(deep_png(image))}
    from PIL import Image

    png = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(png, "PNG", optimize=True)
    methods = WEBP_METHODS[: 4 if thorough else 3]
    webp = min(len(lossless_webp(image, method)) for method in methods)
    jxl = _jpeg_xl(image)
    return {"png": png.tell(), "webp": webp} | ({"jxl": len(jxl)} if jxl else {})


def lossless_webp(image: Pixels, method: int, quality: int = 100) -> bytes:
    """A WebP file of an image, (H, W, C). It has no grey: it stores three equal channels."""
    from PIL import Image

    color_mode = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    file = io.BytesIO()
    Image.fromarray(color_mode).save(file, "WEBP", lossless=True, quality=quality, method=method)
    return file.getvalue()


def _jpeg_xl(image: Pixels) -> bytes:
    """JPEG XL at effort 9; b"" where no library has it."""
    try:
        from imagecodecs import jpegxl_encode
    except ImportError:
        return _jpeg_xl_by_pillow(image)
    return bytes(jpegxl_encode(image.squeeze(), lossless=True, effort=9))


def _jpeg_xl_by_pillow(image: Pixels) -> bytes:
    try:
        import pillow_jxl  # noqa: F401  # what it registers is used
    except ImportError:
        return b""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "JXL", lossless=True, effort=9)
    return file.getvalue()


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


def read_image(path: Path, reading: DecodeOptions = AS_FOUND) -> Pixels:
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


def decode_image(
    file: Path | BinaryIO, name: str | Path, reading: DecodeOptions = AS_FOUND
) -> Pixels:
    """`read_image` of an open file; `name` is what the error calls it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            _check_header(image)
            # Of 16-bit colour Pillow itself keeps the upper byte alone, which is what 8 bits keep.
            gray = image.mode.startswith("I")
            deep = _is_deep(image) and (gray or reading.bit_depth != 8)
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


def _shallow(image: "Image.Image", reading: DecodeOptions) -> Planes:
    """The planes of an image of 8 bits a channel."""
    mode, image = image.mode, _upright(image)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        pixels = rgba[..., :3] if mode not in ("L", "LA") else rgba[..., :1]
        return pixels, rgba[..., 3]
    if mode in ("CMYK", "YCbCr") and not reading.color_mode:
        raise RefusedImage("", f"mode {mode}", "--color-mode rgb")
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
        gray = np.asarray(_upright(image))[..., None]
        if gray.min() < 0 or gray.max() > 65535:
            raise ValueError("more than 16 bits per channel")
        clear = image.info.get("transparency")
        gray = gray.astype(np.uint16)
        return gray, None if clear is None else np.uint16(65535) * (gray[..., 0] != clear)
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
                "", f"16-bit colour of which 8 bits are read ({image.format})", "--bit-depth 8"
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


def read_as(reading: DecodeOptions, pixels: Pixels, alpha: Pixels | None = None) -> Pixels:
    """Opaque pixels, (..., H, W, C), of the bit_depth and the colours that the reading asks for.

    alpha: how opaque they are, (..., H, W). None: they are opaque.
    """
    if alpha is not None and alpha.min() < np.iinfo(alpha.dtype).max:
        if reading.background is None:
            raise RefusedImage("", "transparent pixels", "--background white")
        pixels = _on_background(pixels, alpha, rgb_of(reading.background))
    if reading.bit_depth == 8 and pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if reading.bit_depth == 16 and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    if reading.color_mode == "grey" and pixels.shape[-1] == 3:
        # The luma of ITU-R BT.601, in 16 binary digits as Pillow rounds it.
        luma = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        pixels = ((luma + 0x8000) >> 16).astype(pixels.dtype)[..., None]
    return rgb(pixels) if reading.color_mode == "rgb" else pixels


def _on_background(pixels: Pixels, alpha: Pixels, color: tuple[int, ...]) -> Pixels:
    """The pixels in front of a colour, rounded to the nearest level; grey stays grey on grey."""
    largest = int(np.iinfo(pixels.dtype).max)
    behind = np.array(color[:1] if len({*color}) == 1 else color, np.uint32) * (largest // 255)
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
            f"--bit-depth {known}",
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
