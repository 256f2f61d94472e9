"""Images brought to one size: scaled, then cut."""

import numpy as np

from realnvp.data.images import MAX_PIXELS
from realnvp.data.source import Pixels

Size = tuple[int, ...]
"""(SIDE,) or (height, width)."""


def fitted(pixels: Pixels, *, resize: Size | None, crop: Size | None = None) -> Pixels:
    """The image, scaled and then cut: one SIDE is that of the smallest side and then of the middle, unless crop is given.

    ValueError if it is too small for the crop.
    """
    if resize and len(resize) == 1:
        pixels, crop = smallest_side(pixels, *resize), crop or resize
    elif resize:
        pixels = resized(pixels, *resize)
    return centre(pixels, crop[0], crop[-1]) if crop else pixels


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scaled to that size, bilinear, antialiased: each pixel averages all those that it stands for."""
    from PIL import Image

    if height * width > MAX_PIXELS:
        raise ValueError(f"would be {height} high, {width} wide: more than {MAX_PIXELS} pixels")
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    scaled = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    return scaled.reshape(height, width, -1)


def smallest_side(pixels: Pixels, side: int) -> Pixels:
    """Scaled until its smallest side is so long, the proportions kept."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    return resized(pixels, max(side, round(scale * height)), max(side, round(scale * width)))


def centre(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle height x width pixels; ValueError if there are not so many."""
    if pixels.shape[0] < height or pixels.shape[1] < width:
        raise ValueError(f"is {pixels.shape[0]} high, {pixels.shape[1]} wide: too small for a crop of {height}x{width}")
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
