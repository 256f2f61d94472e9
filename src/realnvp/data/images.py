"""One image file to pixels; pixels to one size, and to the bytes of other formats."""

import importlib.util
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realnvp.config.fields import AS_FOUND, DecodeOptions, rgb_of
from realnvp.data.dataset import Item, Pixels, Result, in_threads
from realnvp.progress import track

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485  # Pillow's bound against decompression bombs; 268 MB of RGB
JPEG_XL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")
# WebP's method 0 is smallest for drawings that repeat themselves, 4 for small pictures.
WEBP_METHODS = 0, 4, 5, 6


def scan_files(paths: Sequence[Item], look: Callable[[Item], Result]) -> list[Result]:
    """look(path) of each path, on all cores, or the error of the first that fails."""
    return [*track(in_threads(look, paths), "images", total=len(paths))]


def read_image(path: Path, reading: DecodeOptions = AS_FOUND) -> Pixels:
    """The pixels of an image file, uint8 or uint16 (H, W, 1 or 3), upright by its EXIF orientation.

    ValueError: the file is damaged, no still image, or needs a choice that `reading` leaves open.
    """
    return decode_image(path.read_bytes(), path, reading)


def decode_image(content: bytes, name: object, reading: DecodeOptions = AS_FOUND) -> Pixels:
    """`read_image` of the content of a file; errors call it `name`."""
    from PIL import Image

    try:
        if content.startswith(JPEG_XL):
            return read_as(reading, imagecodecs().jpegxl_decode(content))
        with Image.open(io.BytesIO(content)) as image:
            pixels = _pixels(image, content, reading)
            # Pillow has turned a TIFF, and forgotten its orientation, when it has loaded it.
            return read_as(reading, upright(pixels, image.getexif().get(0x0112, 1)))
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise ValueError(f"{name}: {error}") from None


def _pixels(image: "Image.Image", content: bytes, reading: DecodeOptions) -> Pixels:
    """(H, W) or (H, W, C), also with alpha: by Pillow, but 16-bit color by imagecodecs."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height}: more than {MAX_PIXELS} pixels")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"{frames} frames, expected one")
    if image.mode.startswith("I"):
        gray = np.asarray(image)
        if gray.min() < 0 or gray.max() > 65535:
            raise ValueError("more than 16 bits per channel")
        gray = gray.astype(np.uint16)
        if (clear := image.info.get("transparency")) is None:
            return gray
        return np.stack([gray, np.uint16(65535) * (gray != clear)], -1)
    if image.format == "PNG" and content[24] == 16:  # the bit depth in IHDR
        return np.asarray(imagecodecs().png_decode(content))
    tags: Any = getattr(image, "tag_v2", {})
    if 16 in tags.get(258, ()):  # BitsPerSample
        pixels = imagecodecs().tiff_decode(content)
        return np.moveaxis(pixels, 0, -1) if tags.get(284) == 2 else pixels  # PlanarConfiguration
    ppm: Any = image.tile[0][3] if image.format == "PPM" else None  # type: ignore[attr-defined]
    if isinstance(ppm, tuple) and ppm[-1] > 255:  # Pillow would drop the lower byte
        raise ValueError("16-bit color: only in PNG, TIFF and JPEG XL")
    if image.has_transparency_data:
        return np.asarray(image.convert("LA" if image.mode in ("L", "LA") else "RGBA"))
    if image.mode in ("CMYK", "YCbCr") and not reading.color_mode:
        raise ValueError(f"mode {image.mode}: choose a color_mode")
    if image.mode in ("1", "P", "CMYK", "YCbCr"):
        return np.asarray(image.convert("L" if image.mode == "1" else "RGB"))
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"mode {image.mode}: neither gray nor RGB of 8 or 16 bits")
    return np.asarray(image)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """(H, W, ...) turned by the number of EXIF's tag 0x0112, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def imagecodecs() -> Any:
    """The library of 16-bit color and JPEG XL, which is optional."""
    return importlib.import_module("imagecodecs")


def read_as(reading: DecodeOptions, pixels: Pixels) -> Pixels:
    """Opaque pixels, (H, W, C), with the bit depth and the color mode of `reading`.

    pixels: (H, W), or (H, W, C), C of 1 to 4: gray or color, or either with alpha.
    """
    if pixels.ndim not in (2, 3) or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{pixels.dtype} of shape {pixels.shape}: no still image of 8 or 16 bits")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[-1] in (2, 4):
        pixels = _opaque(pixels[..., :-1], pixels[..., -1:], reading.background)
    if reading.bit_depth == 8 and pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if reading.bit_depth == 16 and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    if reading.color_mode == "gray" and pixels.shape[-1] == 3:
        # The luma of ITU-R BT.601 in 16-bit fixed point, rounded as Pillow does.
        luma = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        pixels = ((luma + 0x8000) >> 16).astype(pixels.dtype)[..., None]
    if reading.color_mode == "rgb" and pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, axis=-1)
    return pixels


def _opaque(pixels: Pixels, alpha: Pixels, background: str | None) -> Pixels:
    """The pixels over a color, rounded to the nearest level; gray over gray stays gray."""
    largest = int(np.iinfo(pixels.dtype).max)
    if alpha.min() == largest:
        return pixels
    if background is None:
        raise ValueError("transparent pixels: choose a background")
    color = rgb_of(background)
    behind = np.array(color[:1] if len({*color}) == 1 else color, np.uint32) * (largest // 255)
    share = alpha.astype(np.uint32)
    mixed = pixels * share + behind * (largest - share)
    return ((mixed + largest // 2) // largest).astype(pixels.dtype)


def check_fit(pixels: Pixels, *, channels: int, levels: int, name: object) -> None:
    """Check that an image (H, W, C) has the channels and gray levels of the flow."""
    if pixels.shape[-1] != channels:
        raise ValueError(f"{name}: {pixels.shape[-1]} channels, the flow has {channels}")
    bits, known = 8 * pixels.dtype.itemsize, 16 if levels > 256 else 8
    if bits != known:
        raise ValueError(f"{name}: {bits} bits per channel, the flow has {known} (bit_depth)")
    check_levels(pixels, levels, name=name)


def check_levels(pixels: Pixels, levels: int, *, name: object) -> None:
    """Check that all pixels are gray levels 0 .. levels - 1. ValueError: one is beyond."""
    if levels <= np.iinfo(pixels.dtype).max and (largest := int(pixels.max())) >= levels:
        raise ValueError(f"{name}: has the value {largest}, beyond {levels} levels (data.levels)")


def to_size(pixels: Pixels, size: Sequence[int]) -> Pixels:
    """Resize to (height, width), or the shorter side to (SIDE,), then crop the middle square."""
    if len(size) == 2:
        return resized(pixels, *size)
    return center(smallest_side(pixels, *size), *size)


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize to this size, bilinear and antialiased."""
    from PIL import Image

    size, how = (width, height), Image.Resampling.BILINEAR
    if pixels.dtype == np.uint16:  # Pillow resizes 16 bits only as floating-point planes
        planes: list[Any] = [
            Image.fromarray(plane.astype(np.float32)).resize(size, how)
            for plane in np.moveaxis(pixels, -1, 0)
        ]
        return np.stack(planes, axis=-1).round().astype(np.uint16)
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    return np.asarray(picture.resize(size, how)).reshape(height, width, -1)


def smallest_side(pixels: Pixels, side: int) -> Pixels:
    """Resize the shorter side to this length; the proportions stay."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    return resized(pixels, max(side, round(scale * height)), max(side, round(scale * width)))


def center(pixels: Pixels, side: int) -> Pixels:
    """The middle side x side pixels."""
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def codec_bits_per_dim(images: Pixels) -> dict[str, float]:
    """The mean bits/dim of images, (N, H, W, C), by the formats of `codec_sizes`."""
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(codec_sizes, images))
    numbers = np.prod(images.shape[1:])
    return {name: float(np.mean([8 * each[name] for each in sizes]) / numbers) for name in sizes[0]}


def codec_sizes(image: Pixels) -> dict[str, int]:
    """Bytes of an image, (H, W, C), as the smallest lossless PNG, WebP (8 bits) and JPEG XL.

    JPEG XL needs imagecodecs; so does PNG of 16 bits.
    """
    from PIL import Image

    sizes = {}
    flat = image[..., 0] if image.shape[-1] == 1 else image
    if image.dtype == np.uint16:
        sizes["png"] = len(deep_png(image))
    else:
        Image.fromarray(flat).save(png := io.BytesIO(), "PNG", optimize=True)
        sizes["png"] = png.tell()
        sizes["webp"] = min(len(lossless_webp(image, method)) for method in WEBP_METHODS)
    if importlib.util.find_spec("imagecodecs"):
        sizes["jxl"] = len(imagecodecs().jpegxl_encode(flat, lossless=True, effort=9))
    return sizes


def lossless_webp(image: Pixels, method: int, quality: int = 100) -> bytes:
    """A WebP file of an image, (H, W, C); WebP has no gray, so gray becomes three channels."""
    from PIL import Image

    color = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    file = io.BytesIO()
    Image.fromarray(color).save(file, "WEBP", lossless=True, quality=quality, method=method)
    return file.getvalue()


def deep_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of (H, W, C), uint16, C of 1, 3 or 4."""
    image = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return bytes(imagecodecs().png_encode(np.ascontiguousarray(image), level=9))
