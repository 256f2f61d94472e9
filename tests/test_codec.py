"""Archives: pixels come back, files have the size of bits/dim, damage and hostile heads are errors."""

import dataclasses
import io
import itertools
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codec_files import ARCHIVES, BITS, MODELS, flow_of, same, smooth, stack
from torch import Tensor

import realnvp
from realnvp.codec import archive, chunk, compress, decompress, integers
from realnvp.codec.archive import Archive
from realnvp.codec.chunk import packed, unpacked
from realnvp.codec.plan import IntegerFlow, likeliest
from realnvp.data.images import lossless_webp
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow
from realnvp.io.files import DamagedError

RNG = np.random.default_rng(0)


@pytest.fixture(params=MODELS)
def flow(request: pytest.FixtureRequest) -> Flow:
    return flow_of(MODELS[request.param], (3, 16, 16))


def test_every_family_codes_exactly_and_near_its_bound(flow: Flow) -> None:
    coder = IntegerFlow(flow, BITS + 1)
    images = smooth(6, 3, 8, 8)
    now = stack()
    start, before = now.copy(), now.count
    coder.push(torch.from_numpy(images).long(), now, 0)
    nats = log_probs(flow, images, noise_draws=64)
    assert now.count - before == pytest.approx(-nats.sum().item() / np.log(2), rel=0.03)
    # Numbers beyond 6 take fewer bits than their density says.
    assert np.sum(now.bits) == pytest.approx(now.count - before, rel=0.03)
    assert now.bits == pytest.approx(-nats.numpy() / np.log(2), rel=0.05)
    back = coder.pop(torch.Size(images.shape), now, 0)
    assert np.array_equal(back, images)
    assert same(now, start)


def test_images_of_one_pixel(flow: Flow) -> None:
    images = RNG.integers(256, size=(200, 3, 1, 1), dtype=np.uint8)
    assert np.array_equal(decompress(flow, compress(flow, images)), images)


def test_a_file_of_digits_has_the_size_of_their_bits_per_dim() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().images[:400, None].astype(np.uint8)
    flow = realnvp.load_flow("digits-8")
    data = compress(flow, digits)
    bound = -log_probs(flow, digits).sum().item() / np.log(2) / 8
    assert len(data) < 1.06 * bound
    assert np.array_equal(decompress(flow, data), digits)


@pytest.fixture(scope="module")
def modern() -> Flow:
    return flow_of(MODELS["modern"], (3, 16, 16))


def test_what_was_given_comes_back(modern: Flow) -> None:
    images = smooth(3, 3, 12, 8)
    back = realnvp.codec.decompress(modern, realnvp.codec.compress(modern, images))
    assert isinstance(back, np.ndarray)
    assert np.array_equal(back, images)
    tensor = decompress(modern, compress(modern, torch.from_numpy(images)))
    assert isinstance(tensor, Tensor)
    assert torch.equal(tensor, torch.from_numpy(images))
    several = [images[0], images[1, :1, :7], smooth(1, 3, 70, 66)[0]]
    back = decompress(modern, compress(modern, several))
    assert isinstance(back, list)
    assert all(np.array_equal(a, b) for a, b in zip(several, back, strict=True))


def test_a_flow_given_classes_codes_the_likeliest() -> None:
    flow = flow_of(dataclasses.replace(MODELS["learned"], context_dim=3), (3, 16, 16))
    images = smooth(9, 3, 16, 16)
    each = torch.stack([log_probs(flow, images, context=c) for c in range(3)])
    assert np.array_equal(likeliest(flow, images), each.argmax(0).numpy())
    content, bits = encoded(flow, images)
    assert bits == pytest.approx(9 * np.log2(3) - each.amax(0).sum().item() / np.log(2), rel=0.05)
    assert np.array_equal(decoded(flow, content), images)


def test_images_of_16_bits() -> None:
    flow = flow_of(MODELS["modern"], (3, 16, 16), levels=65536)
    images = smooth(30, 3, 16, 16, levels=65536)
    random = np.random.default_rng(0)
    images += random.integers(0, 100, images.shape).astype(np.uint16)
    data = compress(flow, images)
    bound = -log_probs(flow, images).sum().item() / np.log(2) / 8
    assert len(data) < 1.1 * bound
    back = decompress(flow, data)
    assert back.dtype == np.uint16
    assert np.array_equal(back, images)
    with pytest.raises(ValueError, match="expected uint16"):
        compress(flow, smooth(1, 3, 16, 16))


def nasty() -> list[np.ndarray]:
    """Pictures unlike any that a flow has seen."""
    y, x = np.mgrid[:24, :24]
    random = np.random.default_rng(3)
    gray = [0 * x, 0 * x + 255, (x + y) % 2 * 255, x // 2 % 2 * 255, y % 2 * 255, (x == y) * 255]
    pictures = [np.broadcast_to(each, (3, 24, 24)) for each in gray]
    pictures += [random.integers(0, 256, (3, 24, 24)), random.integers(0, 2, (3, 24, 24)) * 255]
    pictures += [np.stack([255 + 0 * x, 0 * x, 0 * x]), random.integers(0, 256, (1, 24, 24))]
    pictures += [random.integers(0, 256, (3, 1, 1)), random.integers(0, 256, (3, 67, 1))]
    impulse = np.zeros((3, 24, 24))
    impulse[0, 5, 7] = 255
    return [np.ascontiguousarray(each, np.uint8) for each in [*pictures, impulse]]


def test_nasty_pictures_are_exact_alone_and_together(modern: Flow) -> None:
    pictures = nasty()
    for picture in pictures:
        data = compress(modern, [picture])
        assert len(data) < 1.01 * picture.size + 200
        assert np.array_equal(decompress(modern, data)[0], picture)
    mixed = [*itertools.chain(*zip(pictures, smooth(len(pictures), 3, 24, 24), strict=True))]
    back = decompress(modern, compress(modern, mixed))
    assert all(np.array_equal(a, b) for a, b in zip(mixed, back, strict=True))


def test_color_pictures_fit_a_flow_of_gray_ones() -> None:
    flow = flow_of(MODELS["modern"], (1, 8, 8), levels=17)
    images = smooth(3, 3, 9, 8, levels=17)
    assert np.array_equal(decompress(flow, compress(flow, images)), images)


@pytest.fixture(autouse=True)
def _by_flow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """WebP is smaller than flows that are not trained; so it is kept for tests that need it."""
    if "by_webp" not in request.keywords:
        monkeypatch.setattr(chunk, "_webp", lambda picture, bits: None)


IMAGES = smooth(9, 3, 16, 16)
IMAGES[5] = RNG.integers(0, 256, IMAGES[5].shape)


def encoded(flow: Flow, images: np.ndarray = IMAGES) -> tuple[bytes, float]:
    return chunk.encode(IntegerFlow(flow, BITS), 64, images, lambda _: None)


def decoded(flow: Flow, content: bytes) -> list[np.ndarray]:
    shapes = [(3, 16, 16)] * len(IMAGES)
    return chunk.decode(IntegerFlow(flow, BITS), 64, shapes, content, lambda _: None)


def header_of(content: bytes) -> chunk.Header:
    length = int.from_bytes(content[:4], "little")
    return unpacked(chunk.Header, content[4 : 4 + length], len(content))


def test_first_tiles_are_halved_and_noise_is_raw(modern: Flow) -> None:
    content, _ = encoded(modern)
    assert header_of(content).kinds.startswith("hhf")
    assert header_of(content).kinds.count("r") >= 1
    assert header_of(content).nonces == {}
    assert np.array_equal(decoded(modern, content), IMAGES)


def test_noise_is_drawn_again_where_machines_could_differ(
    modern: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integers, "MARGIN", 1e-4)
    content, _ = encoded(modern)
    monkeypatch.undo()
    assert header_of(content).nonces
    assert np.array_equal(decoded(modern, content), IMAGES)


@pytest.mark.by_webp
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_drawings_are_webp_files_among_photographs(channels: int) -> None:
    flow = flow_of(MODELS["modern"], (channels, 16, 16))
    drawing = np.zeros((channels, 48, 64), np.uint8)
    drawing[:, 10:20, 10:50] = 200
    image = np.moveaxis(drawing if channels != 4 else np.vstack(drawing)[None], 0, -1)
    webp = min(len(lossless_webp(image, method)) for method in (0, 4, 6))
    assert len(compress(flow, [drawing])) < webp + 150
    noise = RNG.integers(0, 256, (channels, 16, 16)).astype(np.uint8)
    pictures = [noise, drawing, noise]
    data = compress(flow, pictures)
    assert header_of(data[Archive(io.BytesIO(data), "").chunks[0].start :]).files.keys() == {"1"}
    assert all(map(np.array_equal, decompress(flow, data), pictures))


def test_what_decodes_to_other_pictures_is_lost(
    modern: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = compress(modern, smooth(2, 3, 8, 8))
    monkeypatch.setattr(archive, "decode", lambda *how: [each ^ 1 for each in chunk.decode(*how)])
    with pytest.raises(DamagedError, match="2 of 2"):
        decompress(modern, data)
    with pytest.raises(RuntimeError):
        compress(modern, smooth(2, 3, 8, 8))


def test_the_flow_is_named_by_weights_and_choices(modern: Flow) -> None:
    data = compress(modern, smooth(2, 3, 8, 8))
    other = flow_of(MODELS["modern"], (3, 8, 8))
    next(other.parameters()).data.view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match=r"data: needs another flow"):
        decompress(other, data)


def test_other_integers_are_refused(modern: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    data = compress(modern, smooth(2, 3, 8, 8))
    monkeypatch.setattr(IntegerFlow, "digest", lambda self: bytes(32))
    with pytest.raises(ValueError, match="data: this machine"):
        decompress(modern, data)


def test_a_damaged_chunk_costs_its_pictures_alone(
    modern: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "CHUNK", 5)
    images = smooth(12, 3, 8, 8)
    data = bytearray(compress(modern, images))
    opened = Archive(io.BytesIO(data), "data")
    assert len(opened.chunks) == 3
    data[opened.chunks[1].start + 20] ^= 1
    with pytest.raises(DamagedError, match=r"5 of 12 images"):
        decompress(modern, bytes(data))
    back = list(Archive(io.BytesIO(data), "data").pictures(modern, lambda _: None))
    assert [each is None for each in back] == [False] * 5 + [True] * 5 + [False] * 2
    assert all(b is None or np.array_equal(a, b) for a, b in zip(images, back, strict=True))


def test_any_damage_is_told(modern: Flow) -> None:
    images = smooth(5, 3, 8, 8)
    data = compress(modern, images)
    random = np.random.default_rng(5)
    for _ in range(50):
        damaged = bytearray(data)
        match random.integers(3):
            case 0:
                damaged[random.integers(len(data))] ^= 1 << random.integers(8)
            case 1:
                del damaged[random.integers(len(data)) :]
            case 2:
                start = random.integers(len(data))
                damaged[start : start + 8] = random.bytes(8)
        if damaged != data:
            with pytest.raises((DamagedError, ValueError)):
                decompress(modern, bytes(damaged))


def test_damage_with_right_checksums_is_told(modern: Flow) -> None:
    """Whoever writes a file can write its checksums."""
    (content, _), random, told = encoded(modern), np.random.default_rng(6), 0
    for _ in range(60):
        damaged = bytearray(content)
        for at in random.integers(0, len(content), 3):
            damaged[at] = random.integers(256)
        try:
            pictures = decoded(modern, bytes(damaged))
        except (ValueError, LookupError):
            told += 1
        else:
            assert [picture.shape for picture in pictures] == [(3, 16, 16)] * 9
    assert told > 20


def rewritten(data: bytes, **changes: Any) -> bytes:
    """An archive with another index, right checksums and no chunks."""
    opened = Archive(io.BytesIO(data), "data")
    fields = dataclasses.asdict(opened.index) | changes
    index = packed(dataclasses.make_dataclass("Index", fields)(**fields))
    size = archive.HEAD.size
    start = size + int.from_bytes(data[size - 4 : size], "little")
    head = data[: size - 4] + len(index).to_bytes(4, "little") + index
    head += data[start : start + archive.ENTRY.size]
    return head + zlib.crc32(head).to_bytes(4, "little")


@pytest.mark.parametrize(
    "changes",
    [
        {"runs": [[3, 8, 8, 10**12]]},
        {"runs": [[3, 8, 8, 10**12]], "chunks": [10**12]},
        {"runs": [[3, 10**6, 10**6, 1]]},
        {"runs": [[1, 1, 1, 10**30]]},
        {"runs": [[1, 1, 1, 10**400]]},
        {"runs": [[1, 1, 1, 1]] * 10**5, "chunks": [2048] * 49},
        {"flow": "x" * 10**7},
        {"runs": [[3, 0, 8, 1]]},
        {"runs": [[3, 8, -8, 1]]},
        {"runs": [[3]]},
        {"side": 1 << 40},
    ],
)
def test_a_hostile_head_takes_no_memory(modern: Flow, changes: dict[str, Any]) -> None:
    data = compress(modern, smooth(1, 3, 8, 8))
    with pytest.raises(DamagedError, match="data"):
        decompress(modern, rewritten(data, **changes))


def test_the_index_of_millions_of_pictures_comes_back() -> None:
    """Its text is long for its packed bytes, not for the archive's."""
    index = archive.Index(12, 32, [[1, 8, 8, 5000 * 2048]], [2048] * 5000)
    assert unpacked(archive.Index, packed(index), 5000 * archive.ENTRY.size) == index


def test_what_a_flow_cannot_code_is_refused(modern: Flow) -> None:
    gray, black = flow_of(MODELS["modern"], (1, 8, 8), levels=17), np.zeros((2, 3, 8, 8), np.uint8)
    for flow, images in (
        (modern, black.astype(float)),
        (modern, black[0]),
        (modern, black[:0]),
        (modern, np.moveaxis(black, 1, -1)),
        (gray, black[:, :1] + 17),
        (realnvp.vector_flow(2), black),
    ):
        with pytest.raises(ValueError, match="image"):
            compress(flow, images)


def stored(path: Path) -> tuple[Flow, bytes, np.ndarray]:
    """Flow, archive and pixels that tests/codec_files.py wrote on another machine."""
    flow = realnvp.load_flow(path.with_suffix(".safetensors"))
    return flow, path.read_bytes(), np.load(path.with_suffix(".npy"))


@pytest.mark.parametrize("setting", ["ieee", "bf16"])
def test_low_precision_of_convolutions_does_not_change_archives(setting: str) -> None:
    flow, data, pixels = stored(ARCHIVES[-1])
    before = torch.backends.mkldnn.conv.fp32_precision
    torch.backends.mkldnn.conv.fp32_precision = setting
    try:
        assert np.array_equal(decompress(flow, data), pixels)
    finally:
        torch.backends.mkldnn.conv.fp32_precision = before


DECODE = """
import sys, numpy as np, torch, realnvp
from pathlib import Path
from realnvp.codec import decompress
torch.set_num_threads(int(sys.argv[1]))
for path in map(Path, sys.argv[2:]):
    back = decompress(realnvp.load_flow(path.with_suffix(".safetensors")), path.read_bytes())
    assert np.array_equal(back, np.load(path.with_suffix(".npy"))), path
"""


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.stem)
def test_archives_of_another_machine_decode(path: Path) -> None:
    flow, data, pixels = stored(path)
    assert set(header_of(data[Archive(io.BytesIO(data), "").chunks[0].start :]).kinds) == set("fhr")
    assert np.array_equal(decompress(flow, data), pixels)
    for wrong, error in ((data + data, ValueError), (data[:-1], DamagedError)):
        with pytest.raises(error):
            decompress(flow, wrong)
    later = data[:5] + bytes([2]) + data[6:]
    with pytest.raises(ValueError, match="2"):
        decompress(flow, later)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("restricted", [False, True])
def test_files_decode_with_other_threads_and_instructions(threads: int, restricted: bool) -> None:
    """As on an old processor: what torch, its libraries and numpy may use is restricted."""
    old = {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": " ".join(np.show_config("dicts")["SIMD Extensions"]["found"]),
    }
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | (old if restricted else {})
    command = [sys.executable, "-c", DECODE, str(threads), *map(str, ARCHIVES)]
    subprocess.run(command, env=environment, check=True, timeout=300)
