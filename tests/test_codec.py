"""Archives: pixels come back, files have the size of bits/dim, damage and hostile heads are errors."""

import copy
import dataclasses
import io
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codec_files import ARCHIVES, BITS, MODELS, flow_of, smooth, stack
from torch import Tensor

import realnvp
from realnvp.codec import (
    archive,
    choice,
    chunk,
    compress,
    decompress,
    encoder,
    rounding,
)
from realnvp.codec.archive import Archive
from realnvp.codec.choice import flow_bits
from realnvp.codec.header import packed, unpacked
from realnvp.codec.index import index_of
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.stack import Stack
from realnvp.codec.tiles import tiles_of
from realnvp.data.dataset import quantize
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow
from realnvp.io.files import DamagedError

RNG = np.random.default_rng(0)


def same(a: Stack, b: Stack) -> bool:
    return np.array_equal(a.states, b.states) and np.array_equal(a.words(), b.words())


def bits(a: Stack) -> float:
    return 16 * a.count + float(np.log2(a.states).sum())


@pytest.fixture(params=MODELS)
def flow(request: pytest.FixtureRequest) -> Flow:
    return flow_of(MODELS[request.param], (3, 16, 16))


def test_every_family_codes_exactly_and_near_its_bound(flow: Flow) -> None:
    coder = IntegerFlow(flow, BITS + 1)
    images = smooth(6, 3, 8, 8)
    now = stack(lanes=32)
    start, before = now.copy(), bits(now)
    coder.push(torch.from_numpy(images).long(), now, 0)
    nats = log_probs(flow, images, noise_draws=64)
    assert bits(now) - before == pytest.approx(-nats.sum().item() / np.log(2), rel=0.03)
    # Numbers beyond 6 take fewer bits than their density says.
    assert np.sum(now.bits) == pytest.approx(bits(now) - before, rel=0.03)
    assert now.bits == pytest.approx(-nats.numpy() / np.log(2), rel=0.05)
    back = coder.pop(torch.Size(images.shape), now, 0)
    assert np.array_equal(back, images)
    assert same(now, start)


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


def test_a_flow_given_classes_codes_the_likeliest(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = flow_of(dataclasses.replace(MODELS["learned"], context_dim=3), (3, 16, 16))
    coded = Coded(flow)
    bound, classes = flow_bits(flow, coded.places, list(coded.images))
    assert classes is not None
    each = torch.stack([log_probs(flow, coded.images, context=c) for c in range(3)])
    assert np.array_equal(classes, each.argmax(0).numpy())
    assert bound == pytest.approx(np.log2(3) - each.amax(0).numpy() / np.log(2))
    content = coded.encoded(classes=np.arange(9) % 3)
    assert np.array_equal(coded.decoded(content), coded.images)
    assert np.array_equal(decompress(flow, compress(flow, coded.images)), coded.images)
    monkeypatch.setattr(choice, "SURE", 0)  # all classes are known all the same
    images = quantize(flow.sample(9, seed=0, context=torch.arange(9) % 3)).numpy()
    assert np.array_equal(decompress(flow, compress(flow, images)), images)


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
    mixed = [
        each
        for pair in zip(pictures, smooth(len(pictures), 3, 24, 24), strict=True)
        for each in pair
    ]
    back = decompress(modern, compress(modern, mixed))
    assert all(np.array_equal(a, b) for a, b in zip(mixed, back, strict=True))


def test_color_pictures_fit_a_flow_of_gray_ones() -> None:
    flow = flow_of(MODELS["modern"], (1, 8, 8), levels=17)
    images = smooth(3, 3, 9, 8, levels=17)
    assert np.array_equal(decompress(flow, compress(flow, images)), images)


# What must not be left to chance


class Coded:
    """Images as a chunk: three by WebP, one raw, the rest by the flow."""

    def __init__(self, flow: Flow) -> None:
        self.coder, self.images = IntegerFlow(flow, BITS), smooth(9, 3, 16, 16)
        places = [tiles_of(image.shape, 3, flow.divisor, 64) for image in self.images]
        self.places = [place for tiles in places for place in tiles]

    def encoded(self, told: chunk.Told = lambda _: None, **how: Any) -> bytes:
        kinds = np.array(list("fwfwfrwff"))
        content, _ = encoder.encode(self.coder, self.places, [*self.images], kinds, told, **how)
        return content

    def decoded(self, content: bytes) -> list[np.ndarray]:
        return chunk.decode(self.coder, self.places, content, lambda _: None)


@pytest.fixture
def coded(modern: Flow) -> Coded:
    return Coded(modern)


def header_of(content: bytes) -> chunk.Header:
    length = int.from_bytes(content[:4], "little")
    return unpacked(chunk.Header, content[4 : 4 + length])


def test_a_chunk_holds_all_kinds_of_tiles(coded: Coded) -> None:
    content = coded.encoded()
    assert header_of(content).kinds == "fwfwfrwff"
    assert header_of(content).nonces == {}
    assert np.array_equal(coded.decoded(content), coded.images)


def test_noise_is_drawn_again_where_machines_could_differ(
    coded: Coded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "MARGIN", 1e-4)
    content = coded.encoded()
    monkeypatch.undo()
    assert header_of(content).nonces
    assert np.array_equal(coded.decoded(content), coded.images)


def test_what_repeats_itself_is_coded_by_webp() -> None:
    flow = realnvp.load_flow("photos-32")
    part = np.random.default_rng(0).integers(0, 64, (3, 48, 64)).astype(np.uint8)
    assert len(compress(flow, [np.tile(part, (1, 4, 4))])) < 1.2 * len(compress(flow, [part]))


def test_what_decodes_to_other_pictures_is_lost(
    modern: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = compress(modern, smooth(2, 3, 8, 8))
    monkeypatch.setattr(archive, "decode", lambda *how: [tile ^ 1 for tile in chunk.decode(*how)])
    with pytest.raises(DamagedError, match="2 of 2"):
        decompress(modern, data)
    with pytest.raises(RuntimeError, match="does not decode"):
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


def test_damage_with_right_checksums_is_told(coded: Coded) -> None:
    """Whoever writes a file can write its checksums."""
    content, random, told = coded.encoded(), np.random.default_rng(6), 0
    for _ in range(60):
        damaged = bytearray(content)
        for at in random.integers(0, len(content), 3):
            damaged[at] = random.integers(256)
        try:
            tiles = coded.decoded(bytes(damaged))
        except ValueError:
            told += 1
        else:
            assert [tile.shape for tile in tiles] == [place.padded for place in coded.places]
    assert told > 20


def test_a_hostile_head_takes_no_memory(modern: Flow) -> None:
    index = index_of(modern, [(3, 8, 8)], list(smooth(1, 3, 8, 8)).__getitem__)
    data = compress(modern, smooth(1, 3, 8, 8))
    assert packed(dataclasses.replace(index, given_as="array")) in data
    for runs in (
        [[3, 8, 8, 10**12]],
        [[3, 10**6, 10**6, 1]],
        [[3, 0, 8, 1]],
        [[3, 8, -8, 1]],
        [[3]],
    ):
        hostile = copy.copy(index)
        object.__setattr__(hostile, "runs", runs)
        new = packed(hostile)
        head = data[: archive.HEAD.size - 4] + len(new).to_bytes(4, "little") + new
        words = "fewer bytes" if runs[0][-1] == 10**12 else "damaged"
        with pytest.raises(DamagedError, match=words):
            decompress(modern, head + zlib.crc32(head).to_bytes(4, "little") + bytes(100))


def test_a_head_that_does_not_fit_its_flow_is_told(modern: Flow) -> None:
    index = index_of(modern, [(3, 8, 8)], list(smooth(1, 3, 8, 8)).__getitem__, given_as="array")
    data = compress(modern, smooth(1, 3, 8, 8))
    for change in ({"divisor": 1 << 40}, {"channels": 1}, {"levels": 17}):
        new = packed(dataclasses.replace(index, **change))
        head = data[: archive.HEAD.size - 4] + len(new).to_bytes(4, "little") + new + bytes(16)
        with pytest.raises(DamagedError, match="does not fit its flow"):
            decompress(modern, head + zlib.crc32(head).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 3, 8, 8)), "uint8"),
        (np.zeros((3, 8, 8), np.uint8), "uint8 \\(C, H, W\\)"),
        (np.zeros((0, 3, 8, 8), np.uint8), "none"),
        (np.zeros((2, 8, 8, 3), np.uint8), "C of 1 or 3"),
    ],
)
def test_what_is_no_image_is_refused(modern: Flow, images: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compress(modern, images)


def test_other_levels_and_flows_of_tables_are_refused() -> None:
    flow = flow_of(MODELS["modern"], (1, 8, 8), levels=17)
    with pytest.raises(ValueError, match=r"17"):
        compress(flow, np.full((1, 1, 8, 8), 17, np.uint8))
    with pytest.raises(ValueError, match=r"images"):
        compress(realnvp.vector_flow(2), np.zeros((1, 3, 8, 8), np.uint8))


@pytest.mark.parametrize("channels", [2, 4])
def test_arrays_of_other_channels_than_a_picture_s(channels: int) -> None:
    flow = flow_of(MODELS["modern"], (channels, 8, 8))
    images = smooth(12, channels, 8, 8)
    images[:4] = RNG.integers(0, 256, images[:4].shape)
    data = compress(flow, images)
    assert set(header_of(data[Archive(io.BytesIO(data), "").chunks[0].start :]).kinds) >= set("wr")
    assert np.array_equal(decompress(flow, data), images)


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
    """tests/codec_files.py wrote them."""
    flow = realnvp.load_flow(path.with_suffix(".safetensors"))
    data, pixels = path.read_bytes(), np.load(path.with_suffix(".npy"))
    assert set(header_of(data[Archive(io.BytesIO(data), "").chunks[0].start :]).kinds) >= set("fwr")
    assert np.array_equal(decompress(flow, data), pixels)
    for wrong, error in ((data + data, ValueError), (data[:-1], DamagedError)):
        with pytest.raises(error):
            decompress(flow, wrong)
    later = data[:7] + bytes([2]) + data[8:]
    with pytest.raises(ValueError, match="version 2"):
        decompress(flow, later)


@pytest.mark.parametrize("setting", ["ieee", "bf16"])
def test_low_precision_of_convolutions_does_not_change_archives(setting: str) -> None:
    path = ARCHIVES[-1]
    before = torch.backends.mkldnn.conv.fp32_precision
    torch.backends.mkldnn.conv.fp32_precision = setting
    try:
        flow, pixels = (
            realnvp.load_flow(path.with_suffix(".safetensors")),
            np.load(path.with_suffix(".npy")),
        )
        assert np.array_equal(decompress(flow, path.read_bytes()), pixels)
    finally:
        torch.backends.mkldnn.conv.fp32_precision = before


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
