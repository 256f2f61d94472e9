"""Pictures as bytes that stand alone: tiles by the flow, drawings as WebP files."""

import io
import json
import math
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from realnvp.codec.integers import Ambiguous, Stack, Unfit
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.tiles import FLOW, HALVED, RAW, Tile, leaves_of, numbers_of, tiles_of
from realnvp.config.json import Record, parse_json
from realnvp.data.dataset import Pixels, Shape
from realnvp.data.images import decode_image, lossless_webp

NUMBERS = 64 * 3 * 32 * 32  # in a batch, at most, but for a single tile
NONCES = 256  # draws of a batch's noise
RESERVE = 1.1  # of bits, over what the batch before has needed
# A longer search of WebP makes files of photographs little smaller, of drawings much.
PHOTOGRAPH = 1.5  # bits of a number
DOUBT = {"photograph": 1.05, "drawing": 1.4}  # of the bits by the flow: a larger file is hopeless
TINY = 1 << 10  # pixels of which WebP's shortest search finds files as small
WEBP_SIDE = 16_383

LONGEST = 1 << 25  # characters of a record
SHORT, MOST_PACKED = 4096, 64  # characters of a record of no bytes, and of each byte behind it
# Part of the format: the nearer to the end, the shorter a reference to it.
DICTIONARY = (
    b'"given_as":"tensor","given_as":"list","names":["pictures/1.png","2.jpg","3.png"]'
    b'1,256,256,1]],"chunks":[1],"names":["a.png"]}8,8,1]],"chunks":[2048,1],"given_as":"array"}'
    b'{"flow":"photos-full","bits":15,"side":256,"runs":[[3,512,512,1]],"chunks":[1]'
    b'{"flow":"digits-8","bits":12,"side":32,"runs":[[1,'
    b'{"flow":"photos-32","bits":13,"side":128,"runs":[[3,32,32,'
    b'{"kinds":"rrrrrrrrhhhhhfffhfhfhffhhhhhhhhffhffhhffhhffhhffhffhffhffffffffffffffffff",'
    b'"files":{"0":1234,"1":1024},"nonces":{"0":1,"1":1}'
    b'"batches":[1,1,1,1,1,1,1,1,1,1,1,1,2,2,2,2,4,4,4,4,8,8,8,8,16,16,16,32,32]}'
)

Progress = Callable[[int], None]
Bits = npt.NDArray[np.float64]


@dataclass
class Header:
    """How the pictures of a chunk are coded."""

    kinds: str = ""
    """A tree of letters for each tile (`leaves_of`)."""
    batches: list[int] = field(default_factory=list)
    """Sizes of the flow's batches, the first coded first. All tiles of a batch have one shape."""
    nonces: dict[str, int] = field(default_factory=dict)
    """Of all batches, by their index, whose noise was drawn again."""
    files: dict[str, int] = field(default_factory=dict)
    """Bytes of the WebP files, by the indices of their pictures."""


def encode(
    coder: IntegerFlow, side: int, pictures: Sequence[Pixels], progress: Progress
) -> tuple[bytes, float]:
    """Code pictures, (C, H, W) each: by the flow, or as WebP files where these are smaller.

    Returns the bytes, and the bits of all pictures by the flow's density.

    side: of the tiles.
    progress: takes how many more numbers are coded.
    """
    content, bits = _by_flow(coder, side, pictures, {}, progress)
    files = {i: _webp(picture, bits[i]) for i, picture in enumerate(pictures)}
    every = {i: file for i, file in files.items() if file}
    drawings = {i: file for i, file in every.items() if 8 * len(file) < bits[i]}
    choices = [drawings] if drawings else []
    if len(every) == len(pictures) and sum(map(len, every.values())) < len(content):
        choices.append(every)
    for chosen in choices:
        other, _ = _by_flow(coder, side, pictures, chosen, lambda _: None)
        content = min(content, other, key=len)
    return content, float(bits.sum())


def _by_flow(
    coder: IntegerFlow,
    side: int,
    pictures: Sequence[Pixels],
    files: Mapping[int, bytes],
    progress: Progress,
) -> tuple[bytes, Bits]:
    """All pictures but those that have files, and the bits of each.

    A batch pops all bits of its noise before it pushes any. So batches grow as the stack does, and
    the first tiles are halved. Tiles for which the flow needs more bits than their raw pixels lie,
    raw, at the top of the stack.
    """
    header = Header(files={str(i): len(file) for i, file in files.items()})
    shapes = [(i, (*x.shape,)) for i, x in enumerate(pictures) if i not in files]
    left = deque((tile, FLOW) for tile in tiles_of(shapes, *coder.takes, side))
    stack, bits, kinds, raw = Stack(), np.zeros(len(pictures)), list[str](), list[Tile]()
    needed = coder.borrowed  # bits, by a number, as the batch before
    while left:
        tile, kind = left[0]
        numbers = math.prod(tile.padded)
        room = stack.count / (RESERVE * needed * numbers)
        if kind == RAW or (room < 1 and tile.halves()):
            left.popleft()
            left.extendleft((half, FLOW) for half in reversed(tile.halves()) if kind != RAW)
            kinds.append(RAW if kind == RAW else HALVED)
            raw += [tile] * (kind == RAW)
            continue
        most = 1 << int(math.log2(max(1, min(room, NUMBERS / numbers))))
        batch = [tile]
        left.popleft()
        while (
            len(batch) < most and left and left[0][1] == FLOW and left[0][0].padded == tile.padded
        ):
            batch.append(left.popleft()[0])
        pixels = np.stack([part.cut(pictures[part.picture]) for part in batch])
        plain = np.array([numbers_of([part]) for part in batch]) * math.log2(coder.levels)
        try:
            after, nonce = _pushed(coder, pixels, stack)
            unfit = np.flatnonzero(after.bits > plain).tolist()
        except Unfit as error:
            unfit = error.images
        if unfit:
            parts = [(part, RAW if i in unfit else FLOW) for i, part in enumerate(batch)]
            left.extendleft(reversed(parts))
            continue
        took = stack.count - after.lowest
        needed = max(1.0, took / pixels.size) if after.lowest else 1.05 * needed
        if nonce:
            header.nonces[str(len(header.batches))] = nonce
        header.batches.append(len(batch))
        kinds += FLOW * len(batch)
        np.add.at(bits, [part.picture for part in batch], after.bits)
        stack = after
        progress(numbers_of(batch))
    digits = [tile.inner(pictures[tile.picture]).ravel() for tile in raw]
    stack.push(*_levels(np.concatenate([np.empty(0, np.int64), *digits]), coder))
    for tile in raw:
        bits[tile.picture] += numbers_of([tile]) * math.log2(coder.levels)
    progress(numbers_of(raw) + sum(pictures[i].size for i in files))
    header.kinds = "".join(kinds)
    head = packed(header)
    digits_of_tiles = stack.words().astype("<u4").tobytes()
    length = len(head).to_bytes(4, "little")
    return b"".join([length, head, *files.values(), digits_of_tiles]), bits


def decode(
    coder: IntegerFlow, side: int, shapes: Sequence[Shape], content: bytes, progress: Progress
) -> list[Pixels]:
    """The pictures, of these shapes, of `encode`. ValueError: the content is damaged."""
    length = int.from_bytes(content[:4], "little")
    header = unpacked(Header, content[4 : 4 + length], len(content))
    content = content[4 + length :]
    pictures = [np.empty(shape, coder.dtype) for shape in shapes]
    files = {int(i): size for i, size in header.files.items()}
    for i, size in files.items():
        pictures[i] = _from_webp(content[:size], shapes[i])
        content = content[size:]
    coded = [(i, shape) for i, shape in enumerate(shapes) if i not in files]
    leaves = list(leaves_of(tiles_of(coded, *coder.takes, side), header.kinds))
    stack = Stack(np.frombuffer(content, "<u4").astype(np.uint32))
    raw = [tile for tile, kind in leaves if kind == RAW]
    digits = stack.pop(_levels(np.empty(numbers_of(raw), np.int64), coder)[1])
    for tile in raw:
        part, digits = np.split(digits, [numbers_of([tile])])
        tile.inner(pictures[tile.picture])[:] = part.reshape(tile.shape)
    left = [tile for tile, kind in leaves if kind == FLOW]
    for index, size in reversed(list(enumerate(header.batches))):
        batch, left = left[-size:], left[:-size]
        nonce, numbers = header.nonces.get(str(index), 0), size * math.prod(batch[0].padded)
        if size < 1 or (size > 1 and numbers > NUMBERS) or not 0 <= nonce < NONCES:
            raise ValueError(f"batches: {size} with the nonce {nonce}")
        pixels = coder.pop(torch.Size((size, *batch[0].padded)), stack, nonce).numpy()
        for tile, found in zip(batch, pixels, strict=True):
            tile.paste(found, pictures[tile.picture])
        progress(numbers_of(batch))
    if left or stack.count:
        raise ValueError("more than its tiles")
    progress(numbers_of(raw) + sum(pictures[i].size for i in files))
    return pictures


def _pushed(coder: IntegerFlow, pixels: Pixels, stack: Stack) -> tuple[Stack, int]:
    """The stack with these images on it, and the nonce of their noise."""
    images = torch.from_numpy(pixels.astype(np.int64))
    for nonce in range(NONCES):
        after = stack.copy()
        try:
            coder.push(images, after, nonce)
        except Ambiguous:
            continue
        return after, nonce
    raise Unfit(list(range(len(pixels))))


def _levels(digits: Pixels, coder: IntegerFlow) -> tuple[Any, Any]:
    """Pixels as digits, and their sizes."""
    return digits, np.full(len(digits), coder.levels)


def _webp(picture: Pixels, bits: float) -> bytes | None:
    """The smallest WebP file. None: the picture takes far fewer bits by the flow, or has no file.

    Where the picture has neither 1 nor 3 channels, they stand below each other.
    """
    if picture.dtype != np.uint8 or max(picture.shape) > WEBP_SIDE // len(picture):
        return None
    image = np.moveaxis(
        picture if len(picture) in (1, 3) else picture.reshape(1, -1, picture.shape[2]), 0, -1
    )
    quick = [(0, 75)] if image[..., 0].size <= TINY else [(0, 75), (1, 20)]
    found = 8 * min(len(lossless_webp(image, *effort)) for effort in quick)
    if found > DOUBT["photograph" if found > PHOTOGRAPH * picture.size else "drawing"] * bits:
        return None
    return min((lossless_webp(image, method) for method in (0, 4, 5, 6)), key=len)


def _from_webp(content: bytes, shape: Shape) -> Pixels:
    """The picture, of this shape, of `_webp`. ValueError: it is something else."""
    from PIL import Image

    channels, height, width = shape
    stacked = channels not in (1, 3)
    with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
        if image.size != (width, height * channels if stacked else height):
            raise ValueError("a WebP file of another size")
    pixels = np.moveaxis(decode_image(content, "a WebP file"), -1, 0)
    return pixels[0].reshape(shape) if stacked else pixels[:channels]


def packed(record: Any) -> bytes:
    """A dataclass as JSON, deflated with the dictionary."""
    fields = {name: value for name, value in asdict(record).items() if value or value == 0}
    text = json.dumps(fields, separators=(",", ":")).encode()
    if len(text) > LONGEST:
        raise ValueError("too many pictures for one archive")
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, zdict=DICTIONARY)
    return packer.compress(text) + packer.flush()


def unpacked(kind: type[Record], content: bytes, whole: int) -> Record:
    """The record of `packed`. ValueError: it is damaged, or too long for so many bytes as a whole.

    whole: bytes of the described content, and of the record.
    """
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(content, min(LONGEST, SHORT + MOST_PACKED * whole))
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("cut off, or too long")
    return parse_json(kind, text, "header")
