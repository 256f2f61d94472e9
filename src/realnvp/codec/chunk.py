"""Some thousand tiles as bytes that stand alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from realnvp.codec.header import unpacked
from realnvp.codec.leaves import FLOW, RAW, WEBP, Leaf, leaves_of
from realnvp.codec.mosaic import from_mosaic
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.stack import Stack, unpacked_states
from realnvp.codec.tiles import Tile, by_shape
from realnvp.data.dataset import Pixels

NUMBERS = 64 * 3 * 32 * 32  # in a batch, at most, but for a single tile
MOST_LANES = 1024
MOST_NONCES = 256

Told = Callable[[int], None]


@dataclass
class Header:
    """How the tiles of a chunk are coded."""

    kinds: str
    """A tree of letters for each tile (`leaves_of`)."""
    lanes: int
    mosaics: list[int]
    """Their bytes: one for each shape of leaves by WebP."""
    batches: list[int] = field(default_factory=list)
    """Sizes of the flow's batches, the first coded first. All tiles of a batch have one shape. The
    parts of a halved tile are batches of one, and not listed."""
    nonces: dict[str, int] = field(default_factory=dict)
    """Of all batches, by their index, whose noise was drawn again."""


def decode(coder: IntegerFlow, places: Sequence[Tile], content: bytes, told: Told) -> list[Pixels]:
    """The tiles at these places. ValueError: the content is damaged."""
    header, stack = _opened(content)
    leaves = leaves_of(places, header.kinds)
    found = dict[int, Pixels]()  # the leaves' pixels
    kinds, parts = np.array([leaf.kind for leaf in leaves]), [leaf.place for leaf in leaves]
    raw = np.flatnonzero(kinds == RAW).tolist()
    batches, left = _batches(header, leaves, places), len(places)
    digits = stack.pop_all(np.full(sum(parts[k].numbers for k in raw), coder.levels))
    for index, batch in reversed(list(enumerate(batches))):
        shape = torch.Size((len(batch), *parts[batch[0]].padded))
        pixels = coder.pop(shape, stack, header.nonces.get(str(index), 0))
        found |= zip(batch, pixels.numpy().astype(coder.dtype), strict=True)
        if parts[batch[0]].padded == places[leaves[batch[0]].tile].padded:
            told(len(batch))
            left -= len(batch)
    for k in raw:
        part, digits = np.split(digits, [parts[k].numbers])
        found[k] = parts[k].pad(part.reshape(parts[k].shape).astype(coder.dtype))
    bottom = stack.bottom().astype("<u2").tobytes()
    for group, size in zip(by_shape(parts, kinds == WEBP), header.mosaics, strict=True):
        found |= zip(
            group,
            from_mosaic(bottom[:size], len(group), parts[group[0]].padded, coder.dtype),
            strict=True,
        )
        bottom = bottom[size:]
    told(left)
    tiles = [np.empty(place.shape, coder.dtype) for place in places]
    for k, leaf in enumerate(leaves):
        leaf.place.paste(found[k], tiles[leaf.tile])
    return [place.pad(tile) for place, tile in zip(places, tiles, strict=True)]


def _batches(header: Header, leaves: Sequence[Leaf], places: Sequence[Tile]) -> list[list[int]]:
    """The leaves of the flow's batches: whole tiles as many as listed, parts alone."""
    of_tile: list[list[int]] = [[] for _ in places]
    for k, leaf in enumerate(leaves):
        of_tile[leaf.tile].append(k)
    sizes, batches = iter(header.batches), list[list[int]]()
    for group in by_shape(places, np.ones(len(places), bool)):
        most = max(1, NUMBERS // math.prod(places[group[0]].padded))
        by_flow, start = [k for i in group for k in of_tile[i] if leaves[k].kind == FLOW], 0
        while start < len(by_flow):
            whole = len(of_tile[leaves[by_flow[start]].tile]) == 1
            size = next(sizes, 0) if whole else 1
            batch = by_flow[start : start + max(0, size)]
            start += size
            if not 0 < size <= most:
                raise ValueError("a batch of too many tiles, or of none")
            if len(batch) < size or len({leaves[k].place.padded for k in batch}) > 1:
                raise ValueError("its batches do not fit its tiles")
            batches.append(batch)
    if next(sizes, 0):
        raise ValueError("its batches do not fit its tiles")
    return batches


def _opened(content: bytes) -> tuple[Header, Stack]:
    """What `encode` wrote, checked."""
    length = int.from_bytes(content[:4], "little")
    said, rest = content[4 : 4 + length], content[4 + length :]
    header = unpacked(Header, said)
    if not 1 <= header.lanes <= MOST_LANES:
        raise ValueError(f"{header.lanes} lanes")
    if any(not 0 <= nonce < MOST_NONCES for nonce in header.nonces.values()):
        raise ValueError("a nonce out of range")
    states, words = unpacked_states(rest, header.lanes)
    if len(states) != header.lanes or len(words) % 2 or (states < 1 << 16).any():
        raise ValueError("its stack is damaged")
    return header, Stack.of(states.astype(np.int64), np.frombuffer(words, "<u2").astype(np.uint16))
