"""Pictures as people have them: transparent, grey among colour, palette, CMYK, 16 bits."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import color, pictures
from PIL import Image

from realnvp.cli.main import run
from realnvp.config.fields import DecodeOptions
from realnvp.data.images import RefusedImage, decode_image, deep_png, read_image, resized

RNG = np.random.default_rng(1)
DEEP: NDArray[np.uint16] = RNG.integers(0, 65536, (6, 5, 3), dtype=np.uint16)


def saved(image: Image.Image, path: Path, **how: Any) -> Path:
    image.save(path, **how)
    return path


def refusal(path: Path, reading: DecodeOptions = DecodeOptions()) -> tuple[str, str]:  # noqa: B008  # a tuple
    with pytest.raises(RefusedImage) as caught:
        read_image(path, reading)
    assert caught.value.name == str(path)
    return caught.value.why, caught.value.remedy


@pytest.mark.parametrize(
    ("background", "behind"), [("white", 255), ("black", 0), ("#1020fF", [16, 32, 255])]
)
def test_transparent_pixels_lie_on_the_background(
    tmp_path: Path, background: str, behind: Any
) -> None:
    """As Pillow composes them, to one level; grey stays grey on grey."""
    alpha = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
    image = color()
    image.putalpha(Image.fromarray(alpha))
    path = saved(image, tmp_path / "x.png")
    assert refusal(path) == ("transparent pixels", "--background white")
    found = read_image(path, DecodeOptions(background=background)).astype(int)
    share = alpha[..., None] / 255
    exact = np.asarray(image)[..., :3] * share + np.array(behind) * (1 - share)
    assert abs(found - exact).max() <= 0.5
    gray = saved(image.convert("LA"), tmp_path / "la.png")
    read = read_image(gray, DecodeOptions(background=background))
    assert read.shape == (8, 8, 1 if isinstance(behind, int) else 3)
    clear = saved(color().convert("P"), tmp_path / "palette.png", transparency=bytes([0] * 256))
    assert (read_image(clear, DecodeOptions(background=background)) == np.array(behind)).all()


def test_colours_become_grey_and_grey_colours(tmp_path: Path) -> None:
    image = color()
    path = saved(image, tmp_path / "x.png")
    gray = read_image(path, DecodeOptions(color_mode="grey"))
    assert np.array_equal(gray[..., 0], np.asarray(image.convert("L")))
    path = saved(image.convert("L"), tmp_path / "l.png")
    assert np.array_equal(read_image(path, DecodeOptions(color_mode="rgb")), gray.repeat(3, -1))


def test_cmyk_is_read_when_it_may_be_converted(tmp_path: Path) -> None:
    path = saved(color().convert("CMYK"), tmp_path / "x.jpg")
    assert refusal(path) == ("mode CMYK", "--color-mode rgb")
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_image(path, DecodeOptions(color_mode="rgb")), expected)
    assert read_image(path, DecodeOptions(color_mode="grey")).shape == (8, 8, 1)


@pytest.mark.parametrize("kind", ["PNG", "PNG, transparent", "TIFF <", "TIFF >", "TIFF zlib"])
def test_all_16_bits_of_colour_are_read(tmp_path: Path, kind: str) -> None:
    """Though Pillow keeps 8 of them."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "x"
    if kind.startswith("PNG"):
        alpha = np.full((6, 5, 1), 65535, np.uint16)
        path.write_bytes(deep_png(np.concatenate([DEEP, alpha], -1) if "," in kind else DEEP))
    else:
        order = kind[-1] if kind[-1] in "<>" else None
        packed = None if order else "zlib"
        tifffile.imwrite(path, DEEP, photometric="rgb", byteorder=order, compression=packed)
    found = read_image(path)
    assert found.dtype == np.uint16
    assert np.array_equal(found, DEEP)
    assert np.array_equal(decode_image(io.BytesIO(path.read_bytes()), "x"), DEEP)
    assert np.array_equal(read_image(path, DecodeOptions(bit_depth=8)), DEEP >> 8)
    luma = DEEP @ np.array([0.299, 0.587, 0.114])
    assert abs(read_image(path, DecodeOptions(color_mode="grey"))[..., 0] - luma).max() < 1.5


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_all_16_bits_of_grey_are_read(tmp_path: Path, suffix: str) -> None:
    gray, path = DEEP[..., 0], tmp_path / f"x.{suffix}"
    Image.fromarray(gray).save(path)
    found = read_image(path)
    assert found.dtype == np.uint16
    assert np.array_equal(found[..., 0], gray)
    assert np.array_equal(read_image(path, DecodeOptions(bit_depth=8))[..., 0], gray >> 8)


def test_transparent_16_bits_lie_on_the_background(tmp_path: Path) -> None:
    alpha = RNG.integers(0, 65536, (6, 5, 1), dtype=np.uint16)
    path = tmp_path / "x.png"
    path.write_bytes(deep_png(np.concatenate([DEEP, alpha], -1)))
    assert refusal(path) == ("transparent pixels", "--background white")
    share = alpha / 65535
    exact = DEEP * share + 65535 * (1 - share)
    assert abs(read_image(path, DecodeOptions(background="white")) - exact).max() <= 0.5


def test_8_bits_are_stretched_to_16(tmp_path: Path) -> None:
    image = color()
    path = saved(image, tmp_path / "x.png")
    found = read_image(path, DecodeOptions(bit_depth=16))
    assert found.dtype == np.uint16
    assert np.array_equal(found, np.asarray(image).astype(int) * 257)


def test_16_bits_are_scaled_as_8_are() -> None:
    shallow = RNG.integers(0, 256, (16, 12, 3), dtype=np.uint8)
    deep = resized(shallow.astype(np.uint16) * 257, 4, 5)
    assert deep.dtype == np.uint16
    assert abs(deep / 257 - resized(shallow, 4, 5)).max() < 1.01


def test_what_pillow_reads_in_part_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ppm"
    path.write_bytes(b"P6 5 6 65535\n" + DEEP.astype(">u2").tobytes())
    assert refusal(path) == ("16-bit colour of which 8 bits are read (PPM)", "--bit-depth 8")
    assert read_image(path, DecodeOptions(bit_depth=8)).shape == (6, 5, 3)
    path = saved(Image.fromarray(np.full((4, 4), 70000, np.int32)), tmp_path / "x.tif")
    assert refusal(path) == ("more than 16 bits per channel", "")


def test_pictures_of_two_depths_or_colours_are_refused_with_the_flag(tmp_path: Path) -> None:
    from realnvp.config import ImageData
    from realnvp.config.errors import Reasons
    from realnvp.data import find_data

    source = pictures(tmp_path / "in", 6)
    for name in ("a.png", "b.png"):
        (source / name).write_bytes(deep_png(RNG.integers(0, 65536, (8, 8, 3), dtype=np.uint16)))
    with pytest.raises(Reasons) as caught:
        find_data(ImageData(source=str(source)), seed=0)
    assert caught.value.lines == [
        f"2 files: 16 bits per channel, most have 8 bits, first {source / 'a.png'}: --bit-depth 8"
    ]
    for depth, levels in ((8, 256), (16, 65536)):
        found = find_data(ImageData(source=str(source), depth=depth), seed=0)
        assert found.levels == levels
        assert len(found.train) == 6


def test_a_command_says_a_line_for_each_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = pictures(tmp_path / "in", 20)
    for i in range(30):
        glass = color()
        glass.putalpha(i)
        glass.save(source / f"glass-{i:02}.png")
    for i in range(3):
        saved(color(9, 8 + i), source / f"wide-{i}.png")
    saved(color().convert("CMYK"), source / "print.jpg")
    command = ["train", "images-modern", "--data.source", str(source), "--run-dir", "runs/x"]
    assert run(command) == 2
    lines = capsys.readouterr().err.replace(f"{source}/", "").splitlines()
    assert lines == [
        "realnvp: error: 30 files: transparent pixels, first glass-00.png: --background white",
        "realnvp: error: print.jpg: mode CMYK: --color-mode rgb",
        "realnvp: error: 3 files: of another size than most, which are 8 high, 8 wide, first "
        "wide-0.png: is 9 high, 8 wide; wide-1.png: is 9 high, 9 wide; wide-2.png: is 9 high, 10 "
        "wide: --crop 8 trains on random crops, --resize 8 on their middle, scaled",
    ]
    assert run([*command, "--background", "white", "--color-mode", "rgb", "--dry-run"]) == 2
    assert "wide-0.png" in capsys.readouterr().err
    assert (
        run([*command, "--background", "white", "--color-mode", "rgb", "--crop", "8", "--dry-run"])
        == 0
    )
