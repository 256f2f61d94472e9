"""What image formats need for images, without loss: the yardstick beside a model's bits/dim."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from realnvp.data.dataset import Pixels
from realnvp.data.deep_png import deep_png

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

    colours = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "WEBP", lossless=True, quality=quality, method=method)
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
