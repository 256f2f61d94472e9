"""One image file to pixels, or the reason why not; pixels brought to one size."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from realnvp.config.words import reason
from realnvp.data.dataset import Pixels

if TYPE_CHECKING:
    from PIL import Image


# From here on Pillow speaks of decompression bombs; 89 million pixels are 268 MB of RGB.
MAX_PIXELS = 89_478_485


def read_image(path: Path) -> Pixels:
    """The pixels of an image file, uint8 (H, W, C), turned upright by its EXIF tag.

    C is 1 for grey, 3 for colour.

    ValueError "path: reason": it is damaged, or no still, opaque image of 8 bits per channel.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return decode_image(path, path)


def decode_image(file: Path | BinaryIO, name: str | Path) -> Pixels:
    """`read_image` of an open file; `name` is what the ValueError calls it."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            _check_header(image)
            image.load()  # verify() would let truncated files pass
            return _pixels(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        why = "not an image that Pillow can read"
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        why = reason(error)
    raise ValueError(f"{name}: {why}")


def _check_header(image: "Image.Image") -> None:
    """ValueError for what can be refused before anything is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} exceeds limit of {MAX_PIXELS} pixels")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"{frames} frames; one still image is needed")
    # Pillow turns 16-bit colour into mode RGB without a word; only the arguments of its decoder
    # still tell: a raw mode such as RGB;16B, or the largest value of a PPM.
    for codec, _, _, arguments in getattr(image, "tile", []):
        largest = arguments[-1] if codec.startswith("ppm") and isinstance(arguments, tuple) else 255
        if image.mode.startswith("I") or largest > 255 or re.search(r";16[BLNS]", str(arguments)):
            raise ValueError("more than 8 bits per channel")


def _pixels(image: "Image.Image") -> Pixels:
    """The pixels of a decoded image, uint8 (H, W, C)."""
    if image.has_transparency_data:
        grey, image = image.mode in ("L", "LA"), image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise ValueError("has transparent pixels; flatten it onto a background")
        image = image.convert("RGB").convert("L") if grey else image.convert("RGB")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"mode {image.mode}; 8-bit grey or RGB is needed")
    return np.asarray(image).reshape(image.height, image.width, -1)


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
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).reshape(
        height, width, -1
    )


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
