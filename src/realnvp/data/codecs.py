"""What PNG and lossless WebP need for images: the yardstick beside a model's bits/dim."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from realnvp.data.dataset import Pixels


def codec_bits_per_dim(images: Pixels) -> dict[str, float]:
    """{"png": ..., "webp": ...}: bits per dimension, mean over the images.

    Each image is a whole file, its header included.

    images: uint8 (N, H, W, C) with C of 1 or 3; both codecs at their most thorough setting.
    """
    with ThreadPoolExecutor() as pool:
        sizes = np.mean(list(pool.map(_sizes, images)), axis=0)
    png, webp = (8 * sizes / np.prod(images.shape[1:])).tolist()
    return {"png": png, "webp": webp}


def _sizes(image: Pixels) -> tuple[int, int]:
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    png, webp = io.BytesIO(), io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    # WebP has no grey: it stores three equal channels.
    picture.convert("RGB").save(webp, "WEBP", lossless=True, quality=100, method=6)
    return png.tell(), webp.tell()
