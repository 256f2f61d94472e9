"""A file of pictures: of which flow, which pictures, and chunks of tiles that each stand alone.

    7 bytes     magic
    1           version: 1
    32          SHA-256 of the flow: its weights and configuration
    8           SHA-256 of the integers that the flow was rounded to, and of its networks' outputs
                for certain numbers; the first bytes of it
    4           length of the index
    ...         index: JSON, packed (`header.py`)
    16 a chunk  its length, 4; CRC-32 of its bytes, 4; SHA-256 of its pixels, the first 8 bytes
    4           CRC-32 of all this
    ...         chunks

Integers are little-endian. So a damaged chunk costs the pictures that have tiles in it; a damaged
head costs all.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby, islice, repeat
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from realnvp.codec.choice import smallest
from realnvp.codec.chunk import Told, decode
from realnvp.codec.header import packed, unpacked
from realnvp.codec.index import Index
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.tiles import Tile
from realnvp.config.fields import ModelConfig
from realnvp.data.dataset import Pixels
from realnvp.flows.flow import Flow, config_of
from realnvp.io.files import DamagedError

MAGIC = b"\x93RNVP\r\n"
VERSION = 1
HEAD = struct.Struct("<7sB32s8sI")
ENTRY = struct.Struct("<II8s")
CRC = struct.Struct("<I")
CHUNK = 2048  # tiles, at most
MOST_PIXELS = CHUNK * 64 * 64  # of their tiles


def write(
    file: BinaryIO, flow: Flow, index: Index, pictures: Iterable[Pixels], told: Told
) -> float:
    """Write pictures, (C, H, W) of the index's shapes, to a file that is open for writing.

    Each chunk is decoded and compared before the next is coded. So memory is bounded by a chunk and
    a picture.

    Returns the bits that the flow's bound says for all of them.

    told: how many tiles more are coded or compared.
    """
    coder = IntegerFlow(flow, index.bits)
    said = packed(index)
    head = HEAD.pack(MAGIC, VERSION, flow_digest(flow), coder.digest()[:8], len(said)) + said
    count = -(-index.tiles // _per_chunk(index))
    entries, bound, start = [], 0.0, file.tell()
    file.write(head + bytes(count * ENTRY.size + CRC.size))  # a place for what is known later
    for places, tiles in _chunks(index, pictures):
        content, bits = smallest(flow, coder, places, tiles, told)
        bound += bits
        back = decode(coder, places, content, told)
        if not all(np.array_equal(a, b) for a, b in zip(tiles, back, strict=True)):
            raise RuntimeError("what was coded does not decode to the pictures")
        entries.append(ENTRY.pack(len(content), zlib.crc32(content), _digest(places, tiles)))
        file.write(content)
    table = b"".join(entries)
    file.seek(start + len(head))
    file.write(table + CRC.pack(zlib.crc32(head + table)))
    file.seek(0, os.SEEK_END)
    return bound


class Chunk(NamedTuple):
    """Where a chunk lies, and what it must be."""

    start: int
    length: int
    crc: int
    digest: bytes


class Archive:
    """An open archive.

    file: at its start.
    name: what errors call it.

    ValueError: it is no archive. DamagedError: its head is damaged.
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
        if length > self.size:
            raise DamagedError(f"{name}: its head is damaged")
        said = file.read(length)
        try:
            self.index = unpacked(Index, said)
            # Each chunk needs its entry, so a file proves how many tiles there can be.
            count = -(-self.index.tiles // _per_chunk(self.index))
            if count * ENTRY.size > self.size:
                raise ValueError("fewer bytes than its pictures need")
        except ValueError as error:
            raise DamagedError(f"{name}: its head is damaged: {error}") from None
        table = file.read(count * ENTRY.size)
        if file.read(CRC.size) != CRC.pack(zlib.crc32(head + said + table)):
            raise DamagedError(f"{name}: its head is damaged")
        self.chunks: list[Chunk] = []
        start = file.tell()
        for length, crc, digest in ENTRY.iter_unpack(table):
            self.chunks.append(Chunk(start, length, crc, digest))
            start += length
        if start < self.size:
            raise ValueError(f"{name}: {self.size - start} bytes after the archive's end")

    def pictures(self, flow: Flow, told: Told) -> Iterator[Pixels | None]:
        """The pictures, (C, H, W). None: a chunk with tiles of it is damaged.

        told: how many tiles more are decoded.

        ValueError: it needs another flow.
        """
        coder = self.coder(flow)
        tiles = self._tiles(coder, told)
        by_picture = groupby(self.index.places(), key=itemgetter(0))
        for shape, (_, places) in zip(self.index.shapes(), by_picture, strict=True):
            picture, whole = np.empty(shape, coder.dtype), True
            for _, place in places:
                tile = next(tiles)
                if tile is None:
                    whole = False
                else:
                    place.paste(tile, picture)
            yield picture if whole else None

    def _tiles(self, coder: IntegerFlow, told: Told) -> Iterator[Pixels | None]:
        """All tiles. None: the chunk is damaged."""
        left = self.index.places()
        for chunk in self.chunks:
            places = [place for _, place in islice(left, _per_chunk(self.index))]
            found = self._of_chunk(coder, chunk, places, told)
            yield from repeat(None, len(places)) if found is None else found

    def coder(self, flow: Flow) -> IntegerFlow:
        """The flow on integers. ValueError: it is not the flow that the archive needs."""
        if flow_digest(flow) != self.flow_digest:
            raise ValueError(
                f"{self.name}: needs another flow: {self.index.flow or 'one without a name'}, of "
                f"SHA-256 {self.flow_digest.hex()[:16]}..."
            )
        index, config = self.index, config_of(flow)
        of_flow = config.shape[0], config.levels, flow.divisor
        if (index.channels, index.levels, index.divisor) != of_flow:
            raise DamagedError(f"{self.name}: its head is damaged: it does not fit its flow")
        coder = IntegerFlow(flow, index.bits)
        if coder.digest()[:8] != self.integers_digest:
            raise ValueError(
                f"{self.name}: this machine, or this version of realnvp, computes otherwise than "
                "the one that wrote the archive"
            )
        return coder

    def _of_chunk(
        self, coder: IntegerFlow, chunk: Chunk, places: Sequence[Tile], told: Told
    ) -> list[Pixels] | None:
        """The tiles of a chunk. None: it is damaged."""
        self.file.seek(chunk.start)
        content = self.file.read(min(chunk.length, self.size))
        if zlib.crc32(content) != chunk.crc:
            return None
        try:
            tiles = decode(coder, places, content, told)
        except ValueError:
            return None
        return tiles if _digest(places, tiles) == chunk.digest else None


def flow_digest(flow: Flow) -> bytes:
    """SHA-256 of the flow's weights and of what in its configuration is the model's.

    Choices that have their default do not count. So an archive stays readable when there is more to
    choose.
    """
    config, usual = config_of(flow), asdict(ModelConfig())
    chosen = {name: value for name, value in asdict(config.model).items() if value != usual[name]}
    model = json.dumps([config.shape[0], config.levels, chosen], sort_keys=True)
    found = hashlib.sha256(model.encode())
    for name, tensor in sorted(flow.state_dict().items()):
        kind = str(tensor.dtype).removeprefix("torch.")
        # As bytes: numpy has no bfloat16.
        content = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        found.update(f"{name} {kind} {tuple(tensor.shape)}".encode() + content.tobytes())
    return found.digest()


def _per_chunk(index: Index) -> int:
    """How many tiles a chunk has."""
    return min(CHUNK, MOST_PIXELS // index.side**2)


def _chunks(index: Index, pictures: Iterable[Pixels]) -> Iterator[tuple[list[Tile], list[Pixels]]]:
    """Places and pixels of the tiles, chunk by chunk."""
    each, at = zip(pictures, index.shapes(), strict=True), -1
    places = index.places()
    while block := list(islice(places, _per_chunk(index))):
        tiles = []
        for i, place in block:
            if i != at:
                at, (picture, shape) = i, next(each)
                if picture.shape != shape:
                    raise ValueError(f"a picture of shape {picture.shape} in place of {shape}")
            tiles.append(place.cut(picture))
        yield [place for _, place in block], tiles


def _digest(places: Sequence[Tile], tiles: Sequence[Pixels]) -> bytes:
    """The first 8 bytes of the SHA-256 of the tiles without their padding."""
    found = hashlib.sha256()
    for place, tile in zip(places, tiles, strict=True):
        found.update(place.inner(tile).tobytes())
    return found.digest()[:8]
