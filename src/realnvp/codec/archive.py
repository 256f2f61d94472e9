"""A file of pictures: of which flow, which pictures, and chunks of pictures that stand alone.

    5 bytes     magic
    1           version: 1
    16          SHA-256 of the flow, its weights and configuration; the first bytes of it
    8           SHA-256 of the integers that the flow was rounded to, and of its networks' outputs
                for certain numbers; the first bytes of it
    4           length of the index
    ...         index: JSON, packed (`chunk.py`)
    16 a chunk  its length, 4; CRC-32 of its bytes, 4; SHA-256 of its pixels, the first 8 bytes
    4           CRC-32 of all this
    ...         chunks

Integers are little-endian. So a damaged chunk costs its pictures; a damaged head costs all.
"""

import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice, repeat
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from realnvp.codec.chunk import Progress, decode, encode, packed, unpacked
from realnvp.codec.plan import IntegerFlow
from realnvp.config.fields import ModelConfig
from realnvp.data.dataset import Pixels, Shape
from realnvp.data.images import MAX_PIXELS
from realnvp.flows.flow import Flow, config_of
from realnvp.io.files import DamagedError

MAGIC = b"\x93RNVP"
VERSION = 1
HEAD = struct.Struct("<5sB16s8sI")
ENTRY = struct.Struct("<II8s")
CRC = struct.Struct("<I")
CHUNK = 2048  # pictures, at most
CHUNK_NUMBERS = CHUNK * 3 * 64 * 64  # of a chunk's pictures, but for a single one


@dataclass(frozen=True)
class Index:
    """The index of an archive: its grid, its pictures and its flow."""

    bits: int
    """Of the grid's step: 2^-bits on the logit's scale."""
    side: int
    """Of the tiles."""
    runs: list[list[int]]
    """[C, H, W, n]: n pictures of this shape, one after the other."""
    chunks: list[int]
    """The pictures of each chunk."""
    flow: str = ""
    """The name of the flow."""
    names: list[str] | None = None
    """Of the pictures' files, with /."""
    given_as: str | None = None
    """The argument of `compress`: array, tensor or list."""

    def __post_init__(self) -> None:
        for run in self.runs:
            if len(run) != 4 or min(run) < 1 or run[1] * run[2] > MAX_PIXELS or run[0] > 4:
                raise ValueError(f"runs: {run} are no pictures")
        if not 8 <= self.bits <= 24 or not 8 <= self.side <= 1024:
            raise ValueError(f"a grid of 2^-{self.bits}, tiles of {self.side}")
        if sum(self.chunks) != self.count or not all(1 <= n <= CHUNK for n in self.chunks):
            raise ValueError(f"chunks: not of {self.count} pictures")
        if self.names is not None and len(self.names) != self.count:
            raise ValueError(f"{len(self.names)} names for {self.count} pictures")

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return sum(run[3] for run in self.runs)

    @property
    def numbers(self) -> int:
        """Channels of all pixels together."""
        return sum(math.prod(run) for run in self.runs)

    def shapes(self) -> Iterator[Shape]:
        """(C, H, W) of each picture."""
        for c, h, w, n in self.runs:
            for _ in range(n):
                yield c, h, w


def index_of(
    flow: Flow,
    shapes: Sequence[Shape],
    *,
    name: str = "",
    names: Sequence[str] | None = None,
    given_as: str | None = None,
) -> Index:
    """The index of pictures of these shapes, coded with the flow; other fields: see `Index`."""
    config = config_of(flow)
    few = sum(map(math.prod, shapes)) < 100 * 3 * 32 * 32
    # The narrowest level has 29 steps at least.
    deep = max(0, math.ceil(math.log2(config.levels)) - 10)
    finer = 2 if config.model.dequantization == "learned" else 0
    chunks, numbers = [0], 0
    for shape in shapes:
        numbers += math.prod(shape)
        if chunks[-1] == CHUNK or (chunks[-1] and numbers > CHUNK_NUMBERS):
            chunks.append(0)
            numbers = math.prod(shape)
        chunks[-1] += 1
    return Index(
        flow=name,
        bits=13 + finer - few + deep,
        # Tiles larger than the training images let more pixels see their surroundings.
        side=min(256, max(8, 4 * max(config.shape[1:]))),
        runs=[[*shape, len(list(same))] for shape, same in groupby(shapes)],
        chunks=chunks,
        names=None if names is None else list(names),
        given_as=given_as,
    )


def write(
    file: BinaryIO, flow: Flow, index: Index, pictures: Iterable[Pixels], progress: Progress
) -> float:
    """Write pictures, (C, H, W) of the index's shapes, to a file that is open for writing.

    Each chunk is decoded and compared before the next is coded, so a chunk bounds the memory.

    Returns the bits of all pictures by the flow's density.

    progress: takes how many more numbers are coded or compared: in all, twice the index's.
    """
    coder = IntegerFlow(flow, index.bits)
    packed_index = packed(index)
    digests = flow_digest(flow), coder.digest()[:8]
    head = HEAD.pack(MAGIC, VERSION, *digests, len(packed_index)) + packed_index
    entries, total, start = [], 0.0, file.tell()
    file.write(head + bytes(len(index.chunks) * ENTRY.size + CRC.size))  # filled in at the end
    left, shapes = iter(pictures), index.shapes()
    for count in index.chunks:
        chunk = list(islice(left, count))
        content, bits = encode(coder, index.side, chunk, progress)
        total += bits
        back = decode(coder, index.side, list(islice(shapes, count)), content, progress)
        if not all(np.array_equal(a, b) for a, b in zip(chunk, back, strict=True)):
            raise RuntimeError("the coded pictures do not decode to the pictures")
        entries.append(ENTRY.pack(len(content), zlib.crc32(content), _digest(chunk)))
        file.write(content)
    table = b"".join(entries)
    file.seek(start + len(head))
    file.write(table + CRC.pack(zlib.crc32(head + table)))
    file.seek(0, os.SEEK_END)
    return total


class Chunk(NamedTuple):
    """A chunk's place in its archive, and its checksums."""

    start: int
    length: int
    crc: int
    digest: bytes


class Archive:
    """An open archive.

    file: at its start.
    name: of the file, for errors.

    ValueError: it is no archive, or of a later version. DamagedError: its head is damaged.
    """

    def __init__(self, file: BinaryIO, name: str | Path) -> None:
        self.file, self.name = file, name
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(HEAD.size)
        if head[: len(MAGIC)] != MAGIC:
            raise ValueError(f"{name}: not an archive that realnvp compress wrote")
        if len(head) < HEAD.size:
            raise DamagedError(f"{name}: cut off")
        _, version, self.flow_digest, self.integers_digest, length = HEAD.unpack(head)
        if version > VERSION:
            raise ValueError(f"{name}: archive of version {version} needs a later realnvp")
        packed_index = file.read(min(length, self.size))
        try:
            self.index = unpacked(Index, packed_index, self.size)
        except ValueError as error:
            raise DamagedError(f"{name}: its head is damaged: {error}") from None
        table = file.read(len(self.index.chunks) * ENTRY.size)
        if file.read(CRC.size) != CRC.pack(zlib.crc32(head + packed_index + table)):
            raise DamagedError(f"{name}: its head is damaged")
        self.chunks: list[Chunk] = []
        start = file.tell()
        for length, crc, digest in ENTRY.iter_unpack(table):
            self.chunks.append(Chunk(start, length, crc, digest))
            start += length
        if start < self.size:
            raise ValueError(f"{name}: {self.size - start} bytes after the archive's end")

    def pictures(self, flow: Flow, progress: Progress) -> Iterator[Pixels | None]:
        """The pictures, (C, H, W). None: its chunk is damaged.

        progress: takes how many more numbers are decoded.

        ValueError: the archive needs another flow.
        """
        coder, shapes = self.coder(flow), self.index.shapes()
        for chunk, count in zip(self.chunks, self.index.chunks, strict=True):
            found = self._decoded(coder, chunk, list(islice(shapes, count)), progress)
            yield from found or repeat(None, count)

    def coder(self, flow: Flow) -> IntegerFlow:
        """The flow on integers. ValueError: it is not the flow that the archive needs."""
        if flow_digest(flow) != self.flow_digest:
            raise ValueError(
                f"{self.name}: needs another flow: {self.index.flow or 'one without a name'}, of "
                f"SHA-256 {self.flow_digest.hex()}..."
            )
        coder = IntegerFlow(flow, self.index.bits)
        if coder.digest()[:8] != self.integers_digest:
            raise ValueError(
                f"{self.name}: this machine, or this version of realnvp, computes otherwise than "
                "the one that wrote the archive"
            )
        return coder

    def _decoded(
        self, coder: IntegerFlow, chunk: Chunk, shapes: list[Shape], progress: Progress
    ) -> list[Pixels] | None:
        """The pictures of a chunk. None: it is damaged."""
        self.file.seek(chunk.start)
        content = self.file.read(min(chunk.length, self.size))
        too_large = len(shapes) > 1 and sum(map(math.prod, shapes)) > CHUNK_NUMBERS
        if too_large or zlib.crc32(content) != chunk.crc:
            return None
        try:
            pictures = decode(coder, self.index.side, shapes, content, progress)
        except (ValueError, LookupError):
            return None
        return pictures if _digest(pictures) == chunk.digest else None


def flow_digest(flow: Flow) -> bytes:
    """The first 16 bytes of the SHA-256 of the flow's weights and its model's configuration.

    Fields at their defaults do not count, so an archive stays readable when fields are added.
    """
    config, defaults = config_of(flow), asdict(ModelConfig())
    fields = {name: v for name, v in asdict(config.model).items() if v != defaults[name]}
    model = json.dumps([config.shape[0], config.levels, fields], sort_keys=True)
    digest = hashlib.sha256(model.encode())
    for name, tensor in sorted(flow.state_dict().items()):
        kind = str(tensor.dtype).removeprefix("torch.")
        # As bytes: numpy has no bfloat16.
        content = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {kind} {tuple(tensor.shape)}".encode() + content.tobytes())
    return digest.digest()[:16]


def _digest(pictures: Sequence[Pixels]) -> bytes:
    """The first 8 bytes of the SHA-256 of pictures."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.digest()[:8]
