"""One image file to pixels; pixels to one size, and to the bytes of other formats."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from realnvp.config.errors import reason
from realnvp.config.fields import AS_FOUND, DecodeOptions, rgb_of
from realnvp.data.dataset import Item, Pixels, Result, in_threads
from realnvp.progress import track

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, ...]
"""(SIDE,) or (height, width)."""
MAX_PIXELS = 89_478_485  # Pillow's bound against decompression bombs; 268 MB of RGB
MAX_LISTED = 20  # bad files in one message
JPEG_XL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")
# WebP's method 0 is smallest for drawings that repeat themselves, 4 for small pictures.
WEBP_METHODS = 0, 4, 5, 6


def scan_files(
    paths: Sequence[Item], look: Callable[[Item], Result], description: str = "images"
) -> list[Result]:
    """look(path) of each path, on all cores. ValueError: the messages of all that fail."""
    complaints: list[str] = []

    def attempt(path: Item) -> Result | None:
        try:
            return look(path)
        except ValueError as error:
            complaints.append(str(error))
            return None

    found = [*track(in_threads(attempt, paths), description, total=len(paths))]
    refuse(sorted(complaints))  # in one order, whichever thread was first
    return [each for each in found if each is not None]


def refuse(complaints: Sequence[str]) -> None:
    """ValueError: the first complaints, and the number of all, unless there are none."""
    if complaints:
        more = len(complaints) - MAX_LISTED
        lines = [*complaints[:MAX_LISTED], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError("\n".join(lines))


def read_image(path: Path, reading: DecodeOptions = AS_FOUND) -> Pixels:
    """The pixels of an image file, (H, W, C), upright by its EXIF orientation.

    uint8, or uint16 for 16 bits per channel. C is 1 for gray, 3 for color.

    ValueError: the file is damaged, no still image, or needs a choice that `reading` leaves open.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return decode_image(path, path, reading)


def decode_image(
    file: Path | BinaryIO, name: str | Path, reading: DecodeOptions = AS_FOUND
) -> Pixels:
    """`read_image` of an open file; errors call it `name`."""
    try:
        return read_as(reading, *_planes(_content(file), reading))
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise ValueError(f"{name}: {reason(error)}") from None


def _content(file: Path | BinaryIO) -> bytes:
    return file.read_bytes() if isinstance(file, Path) else file.read()


Planes = tuple[Pixels, Pixels | None]
"""Gray or color, (H, W, C), and alpha, (H, W); None: opaque."""


def _planes(content: bytes, reading: DecodeOptions) -> Planes:
    """The planes of an image file. 8 bits and gray are Pillow's, 16-bit color imagecodecs'."""
    from PIL import Image

    if content.startswith(JPEG_XL):
        return _split_alpha(_imagecodecs("jpegxl_decode")(content))
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height}: more than {MAX_PIXELS} pixels")
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"{frames} frames, expected one")
        if image.mode.startswith("I"):
            return _gray16(image)
        if _has_deep_color(image, content):
            if image.format in ("PNG", "TIFF"):
                return _deep_color(image, content)
            # Pillow keeps the upper byte, as `bit_depth=8` does.
            if reading.bit_depth != 8:
                raise ValueError(f"16-bit color in {image.format}: choose bit_depth 8")
        return _planes8(image, reading)


def _planes8(image: "Image.Image", reading: DecodeOptions) -> Planes:
    """The planes of an image of 8 bits per channel."""
    from PIL import ImageOps

    image.load()
    mode, image = image.mode, ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return rgba[..., :1] if mode in ("L", "LA") else rgba[..., :3], rgba[..., 3]
    if mode in ("CMYK", "YCbCr") and not reading.color_mode:
        raise ValueError(f"mode {mode}: choose a color_mode")
    if mode in ("1", "P", "CMYK", "YCbCr"):
        image = image.convert("L" if mode == "1" else "RGB")
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"mode {image.mode}: neither gray nor RGB of 8 or 16 bits")
    return np.asarray(image).reshape(image.height, image.width, -1), None


def _gray16(image: "Image.Image") -> Planes:
    """The planes of a gray image of more than 8 bits."""
    from PIL import ImageOps

    image.load()
    transparent = image.info.get("transparency")
    gray = np.asarray(ImageOps.exif_transpose(image))[..., None]
    if gray.min() < 0 or gray.max() > 65535:
        raise ValueError("more than 16 bits per channel")
    gray = gray.astype(np.uint16)
    if transparent is None:
        return gray, None
    return gray, np.uint16(65535) * (gray[..., 0] != transparent)


def _has_deep_color(image: "Image.Image", content: bytes) -> bool:
    """Whether a color image, which Pillow decodes to 8 bits, has 16 bits per channel."""
    if image.format == "PNG":
        return content[24] == 16  # the bit depth in IHDR
    if image.format == "TIFF":
        return 16 in image.tag_v2.get(258, ())  # type: ignore[attr-defined]  # BitsPerSample
    if image.format == "PPM":
        largest = image.tile[0][3]  # type: ignore[attr-defined]
        return isinstance(largest, tuple) and largest[-1] > 255
    return False


def _deep_color(image: "Image.Image", content: bytes) -> Planes:
    """The planes of a PNG or TIFF of 16-bit color, by imagecodecs."""
    orientation = image.getexif().get(0x0112, 1)
    if image.format == "PNG":
        return _split_alpha(upright(_imagecodecs("png_decode")(content), orientation))
    pixels = _imagecodecs("tiff_decode")(content)
    if image.tag_v2.get(284) == 2:  # type: ignore[attr-defined]  # PlanarConfiguration
        pixels = np.moveaxis(pixels, 0, -1)
    return _split_alpha(upright(pixels, orientation))


def _split_alpha(pixels: Pixels) -> Planes:
    """(H, W), or (H, W, C) with C of 1 to 4, to gray or color and alpha."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{pixels.dtype} of shape {pixels.shape}: no still image of 8 or 16 bits")
    if pixels.shape[-1] in (2, 4):
        return pixels[..., :-1], pixels[..., -1]
    return pixels, None


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """(H, W, ...) turned by the number of EXIF's tag 0x0112, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _imagecodecs(function: str) -> Callable[..., Any]:
    try:
        import imagecodecs
    except ImportError:
        raise ValueError(
            "16-bit color and JPEG XL need imagecodecs: pip install 'realnvp[imagecodecs]'"
        ) from None
    found: Callable[..., Any] = getattr(imagecodecs, function)
    return found


def read_as(reading: DecodeOptions, pixels: Pixels, alpha: Pixels | None = None) -> Pixels:
    """Opaque pixels, (..., H, W, C), with the bit depth and the color mode of `reading`.

    alpha: (..., H, W). None: opaque.
    """
    if alpha is not None and alpha.min() < np.iinfo(alpha.dtype).max:
        if reading.background is None:
            raise ValueError("transparent pixels: choose a background")
        pixels = _on_background(pixels, alpha, rgb_of(reading.background))
    if reading.bit_depth == 8 and pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if reading.bit_depth == 16 and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    if reading.color_mode == "grey" and pixels.shape[-1] == 3:
        # The luma of ITU-R BT.601 in 16-bit fixed point, rounded as Pillow does.
        luma = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        pixels = ((luma + 0x8000) >> 16).astype(pixels.dtype)[..., None]
    return rgb(pixels) if reading.color_mode == "rgb" else pixels


def _on_background(pixels: Pixels, alpha: Pixels, color: tuple[int, ...]) -> Pixels:
    """The pixels over a color, rounded to the nearest level; gray over gray stays gray."""
    largest = int(np.iinfo(pixels.dtype).max)
    behind = np.array(color[:1] if len({*color}) == 1 else color, np.uint32) * (largest // 255)
    share = alpha[..., None].astype(np.uint32)
    mixed = pixels * share + behind * (largest - share)
    return ((mixed + largest // 2) // largest).astype(pixels.dtype)


def rgb(pixels: Pixels) -> Pixels:
    """(H, W, 3), of gray or color."""
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels, 3, axis=-1)


def check_fit(pixels: Pixels, *, channels: int, levels: int, name: object) -> None:
    """ValueError: an image (H, W, C) has other channels or gray levels than the flow."""
    if pixels.shape[-1] != channels:
        raise ValueError(f"{name}: {pixels.shape[-1]} channels, the flow has {channels}")
    bits, known = 8 * pixels.dtype.itemsize, 16 if levels > 256 else 8
    if bits != known:
        raise ValueError(f"{name}: {bits} bits per channel, the flow has {known} (bit_depth)")
    check_levels(pixels, levels, name=name)


def check_levels(pixels: Pixels, levels: int, *, name: object) -> None:
    """ValueError: a pixel is beyond the gray levels 0 .. levels - 1."""
    if levels <= np.iinfo(pixels.dtype).max and (largest := int(pixels.max())) >= levels:
        raise ValueError(f"{name}: has the value {largest}, beyond {levels} levels (data.levels)")


def to_size(pixels: Pixels, *, resize: Size | None, crop: Size | None = None) -> Pixels:
    """Resize, then center-crop.

    resize: (height, width), or (SIDE,) of the shorter side.
    crop: (height, width) or (SIDE,). None: the SIDE of `resize`.

    ValueError: too small for the crop.
    """
    if resize and len(resize) == 1:
        pixels, crop = smallest_side(pixels, *resize), crop or resize
    elif resize:
        pixels = resized(pixels, *resize)
    return center(pixels, crop[0], crop[-1]) if crop else pixels


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize to this size, bilinear and antialiased."""
    from PIL import Image

    if height * width > MAX_PIXELS:
        raise ValueError(f"would be {height}x{width}: more than {MAX_PIXELS} pixels")
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


def center(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle height x width pixels. ValueError: there are fewer."""
    if pixels.shape[0] < height or pixels.shape[1] < width:
        raise ValueError(
            f"{pixels.shape[0]}x{pixels.shape[1]}: too small for a crop of {height}x{width}"
        )
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def codec_bits_per_dim(images: Pixels) -> dict[str, float]:
    """{"png": ..., "webp": ...}: bits per dimension of whole files, mean over images (N, H, W, C).

    With "jxl", JPEG XL, if imagecodecs is installed.
    """
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
        png = io.BytesIO()
        Image.fromarray(flat).save(png, "PNG", optimize=True)
        sizes["png"] = png.tell()
        sizes["webp"] = min(len(lossless_webp(image, method)) for method in WEBP_METHODS)
    try:
        encode = _imagecodecs("jpegxl_encode")
    except ValueError:
        return sizes
    return sizes | {"jxl": len(encode(flat, lossless=True, effort=9))}


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
    return bytes(_imagecodecs("png_encode")(np.ascontiguousarray(image), level=9))
