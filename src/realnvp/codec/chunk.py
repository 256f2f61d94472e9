"""Some thousand tiles as bytes that stand alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from realnvp.codec.header import packed, unpacked
from realnvp.codec.mosaic import from_mosaic, mosaic
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.rounding import Ambiguous, Unfit
from realnvp.codec.stack import Empty, Integers, Stack
from realnvp.codec.tiles import Tile, by_shape
from realnvp.data.dataset import Pixels

FLOW, WEBP, RAW = KINDS = "fwr"  # how a tile is coded
NUMBERS = 16 * 3 * 32 * 32  # in a batch, at most, but for a single tile
NUMBERS_PER_LANE = 4000
FEWEST_LANES, MOST_LANES = 16, 1024
RESERVE = 1.1  # of bits, over what the batch before has needed
MOST_NONCES = 256
MOST_HEADER = 1 << 20  # bytes

Told = Callable[[int], None]
Kinds = npt.NDArray[np.str_]


class Short(Exception):
    """The bits that an image borrows are not there.

    bits: how many are missing, about.
    """

    def __init__(self, bits: float) -> None:
        super().__init__("too few bits for an image's noise")
        self.bits = bits


@dataclass
class Header:
    """How the tiles of a chunk are coded."""

    kinds: str
    """A letter for each tile."""
    lanes: int
    mosaics: list[int]
    """Their bytes: one for each shape of tiles by WebP."""
    batches: list[int] = field(default_factory=list)
    """Sizes of the flow's batches, the first coded first. All tiles of a batch have one shape."""
    nonces: dict[str, int] = field(default_factory=dict)
    """Of the batches, by their index, whose noise was drawn again."""


def encode(
    coder: IntegerFlow,
    places: Sequence[Tile],
    tiles: Sequence[Pixels],
    chosen: Kinds,
    told: Told,
    classes: Integers | None = None,
) -> bytes:
    """Code tiles as chosen, or raw where the flow's integers do not reach.

    The mosaics are at the bottom of the stack, whose bits the flow's first image needs. The raw
    tiles are at its top.

    coder: of the flow.
    places: of the tiles in their pictures.
    told: how many more tiles are coded.
    classes: of the tiles, if the flow is given classes.

    Short: tiles by WebP bring too few bits.
    """
    kinds = chosen.copy()
    mosaics = [
        mosaic(np.stack([tiles[i] for i in group])) for group in by_shape(places, kinds == WEBP)
    ]
    bottom = b"".join(mosaics)
    words = np.frombuffer(bottom + bytes(len(bottom) % 2), "<u2").astype(np.uint16)
    header = Header("", _lanes(kinds, tiles), [len(each) for each in mosaics])
    stack = Stack(words, header.lanes)
    for group in by_shape(places, kinds == FLOW):
        stack = _push_group(coder, tiles, group, stack, kinds, header, told, classes)
    digits = [places[i].inner(tiles[i]).ravel() for i in np.flatnonzero(kinds == RAW).tolist()]
    _push_raw(np.concatenate([np.empty(0, np.int64), *digits]), coder.levels, stack)
    told(int((kinds != FLOW).sum()))
    header.kinds = "".join(kinds)
    said = packed(header)
    states, words = stack.states.astype("<u4"), stack.words().astype("<u2")
    return len(said).to_bytes(4, "little") + said + states.tobytes() + words.tobytes()


def _push_group(
    coder: IntegerFlow,
    tiles: Sequence[Pixels],
    left: list[int],
    stack: Stack,
    kinds: Kinds,
    header: Header,
    told: Told,
    classes: Integers | None,
) -> Stack:
    """The stack with a group of tiles of one shape on it, batch by batch; notes how in the header.

    Batches grow as the stack does: a batch borrows all bits of its noise before it gives any back.
    """
    numbers = tiles[left[0]].size
    needed = math.inf  # bits of a number, while its batch is coded
    while left:
        most = max(1, min(NUMBERS, 16 * stack.count / (RESERVE * needed)) / numbers)
        batch = left[: 1 << int(math.log2(most))]  # powers of 2 make a short header
        pixels = torch.from_numpy(np.stack([tiles[i] for i in batch]).astype(np.int64))
        try:
            after, nonce = _pushed(
                coder, pixels, stack, None if classes is None else classes[batch]
            )
        except Unfit as error:
            kinds[[batch[i] for i in error.images]] = RAW
            left = [i for i in left if kinds[i] == FLOW]
            continue
        except Empty:
            if len(batch) == 1:
                missing = float(coder.borrowed[tiles[batch[0]]].sum()) - 16 * stack.count
                raise Short(max(0.0, missing)) from None
            needed *= 4 / 3
            continue
        if nonce:
            header.nonces[str(len(header.batches))] = nonce
        header.batches.append(len(batch))
        needed = 16 * (stack.count - after.lowest) / pixels.numel()
        stack, left = after, left[len(batch) :]
        told(len(batch))
    return stack


def decode(coder: IntegerFlow, places: Sequence[Tile], content: bytes, told: Told) -> list[Pixels]:
    """The tiles at these places. ValueError: the content is damaged."""
    header, stack = _opened(content, places)
    kinds, tiles = np.array(list(header.kinds)), dict[int, Pixels]()
    raw = np.flatnonzero(kinds == RAW).tolist()
    batches = _batches(header, kinds, places)
    try:
        digits = _pop_raw(sum(math.prod(places[i].shape) for i in raw), coder.levels, stack)
        for index, batch in reversed(list(enumerate(batches))):
            shape = torch.Size((len(batch), *places[batch[0]].padded))
            pixels = coder.pop(shape, stack, header.nonces.get(str(index), 0))
            tiles |= zip(batch, pixels.numpy().astype(coder.dtype), strict=True)
            told(len(batch))
    except Empty:
        raise ValueError("its words are too few") from None
    except Unfit as error:
        raise ValueError(str(error)) from None
    for i in raw:
        part, digits = np.split(digits, [math.prod(places[i].shape)])
        tiles[i] = places[i].pad(part.reshape(places[i].shape).astype(coder.dtype))
    bottom = stack.bottom().astype("<u2").tobytes()
    for group, size in zip(by_shape(places, kinds == WEBP), header.mosaics, strict=True):
        tiles |= zip(
            group,
            from_mosaic(bottom[:size], len(group), places[group[0]].padded, coder.dtype),
            strict=True,
        )
        bottom = bottom[size:]
    told(int((kinds != FLOW).sum()))
    return [tiles[i] for i in range(len(places))]


def _pushed(
    coder: IntegerFlow, pixels: torch.Tensor, stack: Stack, classes: Integers | None
) -> tuple[Stack, int]:
    """The stack with these images on it, and the nonce of their noise."""
    for nonce in range(MOST_NONCES):
        after = stack.copy()
        try:
            coder.push(pixels, after, nonce, classes)
        except Ambiguous:
            continue
        return after, nonce
    raise Unfit(list(range(len(pixels))))


def _push_raw(digits: Integers, levels: int, stack: Stack) -> None:
    stack.push_all(digits, np.full_like(digits, levels))


def _pop_raw(count: int, levels: int, stack: Stack) -> Integers:
    return stack.pop_all(np.full(count, levels))


def _lanes(kinds: Kinds, tiles: Sequence[Pixels]) -> int:
    """About one for 4,000 numbers: each lane costs a byte, and saves time."""
    numbers = sum(tiles[i].size for i in np.flatnonzero(kinds != WEBP).tolist())
    wanted = 2 ** round(math.log2(max(1, numbers / NUMBERS_PER_LANE)))
    return min(max(wanted, FEWEST_LANES if FLOW in kinds else 1), MOST_LANES)


def _batches(header: Header, kinds: Kinds, places: Sequence[Tile]) -> list[list[int]]:
    """The tiles of the flow's batches."""
    groups, batches = by_shape(places, kinds == FLOW), []
    for size in header.batches:
        if not groups or not 1 <= size <= len(groups[0]):
            raise ValueError("its batches do not fit its tiles")
        if size > max(1, NUMBERS // math.prod(places[groups[0][0]].padded)):
            raise ValueError("a batch of too many tiles")
        batches.append(groups[0][:size])
        groups[0] = groups[0][size:]
        groups = groups if groups[0] else groups[1:]
    if groups:
        raise ValueError("its batches do not fit its tiles")
    return batches


def _opened(content: bytes, places: Sequence[Tile]) -> tuple[Header, Stack]:
    """What `encode` wrote, checked."""
    length = int.from_bytes(content[:4], "little")
    said, rest = content[4 : 4 + length], content[4 + length :]
    header = unpacked(Header, said, MOST_HEADER)
    if len(header.kinds) != len(places) or set(header.kinds) - set(KINDS):
        raise ValueError("it is not of these tiles")
    if not 1 <= header.lanes <= MOST_LANES:
        raise ValueError(f"{header.lanes} lanes")
    if any(not 0 <= nonce < MOST_NONCES for nonce in header.nonces.values()):
        raise ValueError("a nonce out of range")
    states = np.frombuffer(rest[: 4 * header.lanes], "<u4").astype(np.int64)
    words = rest[4 * header.lanes :]
    if len(states) != header.lanes or len(words) % 2 or (states < 1 << 16).any():
        raise ValueError("its stack is damaged")
    return header, Stack.of(states, np.frombuffer(words, "<u2").astype(np.uint16))
