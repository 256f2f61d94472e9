"""One picture file to pixels: transparency, gray, palettes, CMYK, 16 bits, orientation, size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import color
from PIL import Image

from realnvp.config.fields import DecodeOptions, ImageData
from realnvp.data.images import (
    decode_image,
    deep_png,
    read_image,
    resized,
    smallest_side,
    to_size,
    upright,
)
from realnvp.data.prepared import find_data

RNG = np.random.default_rng(1)
DEEP: NDArray[np.uint16] = RNG.integers(0, 65536, (6, 5, 3), dtype=np.uint16)


def saved(image: Image.Image, path: Path, **how: Any) -> Path:
    image.save(path, **how)
    return path


def refuses(path: Path, word: str, options: DecodeOptions | None = None) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        read_image(path, options or DecodeOptions())
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("background", "behind"), [("white", 255), ("black", 0), ("#1020fF", [16, 32, 255])]
)
def test_transparent_pixels_lie_on_the_background(
    tmp_path: Path, background: str, behind: Any
) -> None:
    options = DecodeOptions(background=background)
    alpha = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
    image = color()
    image.putalpha(Image.fromarray(alpha))
    path = saved(image, tmp_path / "x.png")
    refuses(path, "background")
    share = alpha[..., None] / 255
    exact = np.asarray(image)[..., :3] * share + np.array(behind) * (1 - share)
    assert abs(read_image(path, options).astype(int) - exact).max() <= 0.5
    gray = read_image(saved(image.convert("LA"), tmp_path / "la.png"), options)
    assert gray.shape == (8, 8, 1 if isinstance(behind, int) else 3)  # gray on gray stays gray
    clear = saved(color().convert("P"), tmp_path / "palette.png", transparency=bytes(256))
    assert (read_image(clear, options) == np.array(behind)).all()


def test_palettes_bits_and_gray(tmp_path: Path) -> None:
    image = color(4, 6)
    rgb, gray = image.quantize(200).convert("RGB"), image.convert("L")
    for name, picture, expected in (
        ("palette.png", image.quantize(200), np.asarray(rgb)),
        ("gray.png", gray, np.asarray(gray)[..., None]),
        ("la.png", image.convert("LA"), np.asarray(gray)[..., None]),
        ("one.png", image.convert("1"), np.asarray(image.convert("1"))[..., None] * 255),
        ("rgba.png", image.convert("RGBA"), np.asarray(image)),
    ):
        assert np.array_equal(read_image(saved(picture, tmp_path / name)), expected), name
    found = read_image(tmp_path / "rgba.png", DecodeOptions(color_mode="gray"))
    assert np.array_equal(found[..., 0], np.asarray(gray))
    found = read_image(tmp_path / "gray.png", DecodeOptions(color_mode="rgb"))
    assert np.array_equal(found, np.asarray(gray)[..., None].repeat(3, -1))


def test_cmyk_needs_a_color_mode(tmp_path: Path) -> None:
    path = saved(color().convert("CMYK"), tmp_path / "x.jpg")
    refuses(path, "color_mode")
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_image(path, DecodeOptions(color_mode="rgb")), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    """Pillow's and ours, for 8 and 16 bits, are the same."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = color(5, 7)
    turned = upright(np.asarray(image), orientation)
    for suffix in ("png", "tif"):
        path = saved(image, tmp_path / f"x.{suffix}", exif=exif)
        assert np.array_equal(read_image(path), turned)
    gray = saved(Image.fromarray(DEEP[..., 0]), tmp_path / "g.png", exif=exif)
    assert np.array_equal(read_image(gray)[..., 0], upright(DEEP[..., 0], orientation))
    tifffile = pytest.importorskip("tifffile")
    tag = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "c.tif", DEEP, photometric="rgb", extratags=tag)
    assert np.array_equal(read_image(tmp_path / "c.tif"), upright(DEEP, orientation))


@pytest.mark.parametrize("kind", ["PNG", "PNG alpha", "<", ">", "zlib", "planar", "JPEG XL"])
def test_all_16_bits_of_color_are_read(tmp_path: Path, kind: str) -> None:
    """Pillow keeps 8 of them."""
    imagecodecs = pytest.importorskip("imagecodecs")
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "x"
    if kind == "JPEG XL":
        path.write_bytes(imagecodecs.jpegxl_encode(DEEP, lossless=True))
    elif kind.startswith("PNG"):
        alpha = np.full((6, 5, 1), 65535, np.uint16)
        path.write_bytes(deep_png(np.concatenate([DEEP, alpha], -1) if "alpha" in kind else DEEP))
    elif kind == "planar":
        planes = np.moveaxis(DEEP, -1, 0)
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    else:
        order = kind if kind in "<>" else None
        packed = None if order else kind
        tifffile.imwrite(path, DEEP, photometric="rgb", byteorder=order, compression=packed)
    assert np.array_equal(read_image(path), DEEP)
    assert read_image(path).dtype == np.uint16
    assert np.array_equal(decode_image(path.read_bytes(), "x"), DEEP)
    assert np.array_equal(read_image(path, DecodeOptions(bit_depth=8)), DEEP >> 8)
    luma = DEEP @ np.array([0.299, 0.587, 0.114])
    assert abs(read_image(path, DecodeOptions(color_mode="gray"))[..., 0] - luma).max() < 1.5


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_all_16_bits_of_gray_are_read(tmp_path: Path, suffix: str) -> None:
    path = saved(Image.fromarray(DEEP[..., 0]), tmp_path / f"x.{suffix}")
    assert np.array_equal(read_image(path)[..., 0], DEEP[..., 0])
    shallow = read_image(path, DecodeOptions(bit_depth=8))
    assert np.array_equal(shallow[..., 0], DEEP[..., 0] >> 8)


def test_transparent_16_bits_lie_on_the_background(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    alpha = RNG.integers(0, 65536, (6, 5, 1), dtype=np.uint16)
    path = tmp_path / "x.png"
    path.write_bytes(deep_png(np.concatenate([DEEP, alpha], -1)))
    refuses(path, "background")
    exact = DEEP * (alpha / 65535) + 65535 * (1 - alpha / 65535)
    assert abs(read_image(path, DecodeOptions(background="white")) - exact).max() <= 0.5


def test_8_bits_become_16(tmp_path: Path) -> None:
    image = color()
    found = read_image(saved(image, tmp_path / "x.png"), DecodeOptions(bit_depth=16))
    assert np.array_equal(found, np.asarray(image).astype(int) * 257)


def test_two_depths_in_a_folder_need_a_bit_depth(tmp_path: Path) -> None:
    for number in range(6):
        color().save(tmp_path / f"{number}.png")
        gray = RNG.integers(0, 65536, (8, 8), dtype=np.uint16)
        Image.fromarray(gray).save(tmp_path / f"deep{number}.png")
    config = {"source": str(tmp_path), "color_mode": "rgb"}
    with pytest.raises(ValueError, match=tmp_path.name):
        find_data(ImageData(**config), seed=0)
    for depth, levels in ((8, 256), (16, 65536)):
        assert find_data(ImageData(**config, bit_depth=depth), seed=0).levels == levels


def test_sizes() -> None:
    pixels = RNG.integers(0, 256, (16, 12, 3), dtype=np.uint8)
    deep = resized(pixels.astype(np.uint16) * 257, 4, 5)
    assert deep.dtype == np.uint16
    assert abs(deep / 257 - resized(pixels, 4, 5)).max() < 1.01
    assert smallest_side(pixels, 6).shape == (8, 6, 3)
    assert np.array_equal(to_size(pixels, (6,)), smallest_side(pixels, 6)[1:7])
    assert np.array_equal(to_size(pixels, (5, 9)), resized(pixels, 5, 9))


def test_a_source_is_resized(tmp_path: Path) -> None:
    for number in range(12):
        color(9 + number, 20).save(tmp_path / f"{number:02}.png")
    found = find_data(ImageData(source=str(tmp_path), resize=8), seed=0)
    stored = {image.tobytes() for split in found.splits.values() for image in split[:]}
    files = tmp_path.glob("*.png")
    assert stored == {to_size(read_image(path), (8,)).tobytes() for path in files}
    np.save(tmp_path / "x.npy", np.stack([color(9, 20) for _ in range(12)]))
    assert find_data(ImageData(source=str(tmp_path / "x.npy"), resize=8), seed=0).shape == (3, 8, 8)
