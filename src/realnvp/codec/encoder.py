"""Tiles onto the stack of a chunk, in batches as large as its bits allow."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from realnvp.codec.chunk import MOST_LANES, MOST_NONCES, NUMBERS, Header, Told
from realnvp.codec.header import packed
from realnvp.codec.leaves import FLOW, HALVED, RAW, WEBP, Leaf, first_leaves, leaves_of
from realnvp.codec.mosaic import Bits, mosaic
from realnvp.codec.plan import IntegerFlow
from realnvp.codec.rounding import Ambiguous, Unfit
from realnvp.codec.stack import Empty, Integers, Stack, packed_states
from realnvp.codec.tiles import SMALLEST, Tile, by_shape
from realnvp.data.dataset import Pixels

FEWEST_NUMBERS = 35_000  # for which a second lane could be worth its bits
FEWEST_LANES = 16
# Small parts of tiles take long. So a large chunk starts with more words by WebP than it must.
FEWEST_FOR_SEED, SEED_SHARE, MOST_SEED = 1 << 19, 512, 1536
MOST_SHARE = 16  # of the numbers: one of so many is by WebP for that, at most
RESERVE = 1.1  # of bits, over what the batch before has needed

Kinds = npt.NDArray[np.str_]


class Short(Exception):
    """The bits that one of the smallest tiles borrows are not there."""


def encode(
    coder: IntegerFlow,
    places: Sequence[Tile],
    tiles: Sequence[Pixels],
    chosen: Kinds,
    told: Told,
    classes: Integers | None = None,
) -> tuple[bytes, Bits]:
    """Code tiles as chosen, or raw where the flow's integers do not reach.

    The mosaics are at the bottom of the stack. The raw tiles are at its top.

    Returns the bytes, and the bits of each tile that the flow has coded as a whole; of others NaN.

    coder: of the flow.
    places: of the tiles in their pictures.
    told: how many more tiles are coded.
    classes: of the tiles, if the flow is given classes.
    """
    groups = by_shape(places, chosen == FLOW)
    whole = [Leaf(i, places[i].alone()) for group in groups for i in group]
    numbers = sum(leaf.place.numbers for leaf in whole)
    large = numbers >= FEWEST_FOR_SEED and whole[0].place.halves()
    seed, words = 0, min(MOST_SEED, numbers // SEED_SHARE) if large else 0
    while True:
        seeds = list(first_leaves(whole, seed))
        encoder = Encoder(coder, places, tiles, chosen, seeds, classes)
        if encoder.started >= words or encoder.seeded >= numbers // MOST_SHARE:
            done = 0  # tiles
            try:
                for group in groups:
                    for count in encoder.push(group):
                        done += count
                        told(count)
            except Short:
                told(-done)
            else:
                told(len(tiles) - len(whole))
                return encoder.content(), np.where(encoder.trees == FLOW, encoder.bits, math.nan)
        seed = encoder.more_seeds(seed, words)


class Encoder:
    """Tiles on a stack, those by WebP first.

    seeds: the first leaves, by WebP, whose bits the flow's first leaf borrows.
    """

    def __init__(
        self,
        coder: IntegerFlow,
        places: Sequence[Tile],
        tiles: Sequence[Pixels],
        chosen: Kinds,
        seeds: Sequence[Leaf],
        classes: Integers | None,
    ) -> None:
        self.coder, self.places, self.tiles, self.classes = coder, places, tiles, classes
        self.trees, self.seeds = chosen.astype(object), list(seeds)
        self.seeded = sum(leaf.place.numbers for leaf in seeds)
        self.bits = np.zeros(len(tiles))  # of what the flow has coded of each
        whole = [Leaf(i, places[i].alone()) for i in np.flatnonzero(chosen == WEBP).tolist()]
        mosaics = self._mosaics(sorted([*whole, *seeds], key=lambda leaf: leaf.tile))
        bottom = b"".join(mosaics)
        words = np.frombuffer(bottom + bytes(len(bottom) % 2), "<u2").astype(np.uint16)
        self.header = Header("", _lanes(chosen, tiles), [len(each) for each in mosaics])
        self.stack, self.batches = Stack(words, self.header.lanes), 0
        self.started = len(words)
        self.needed = coder.borrowed  # bits, by a number, as the last one did

    def _mosaics(self, leaves: Sequence[Leaf]) -> list[bytes]:
        groups = by_shape([leaf.place for leaf in leaves], np.ones(len(leaves), bool))
        return [mosaic(np.stack([self._cut(leaves[k]) for k in group])) for group in groups]

    def _cut(self, leaf: Leaf) -> Pixels:
        return leaf.place.cut(self.places[leaf.tile].inner(self.tiles[leaf.tile]))

    def push(self, left: list[int]) -> Iterator[int]:
        """Put tiles of one shape on the stack; gives how many more are, batch by batch.

        Batches grow as the stack does: a batch borrows all bits of its noise before it gives any
        back. Tiles that would borrow more than there is are halved.

        Short: it needs more seeds.
        """
        numbers = self.tiles[left[0]].size
        while left:
            batch = left[:1]
            if most := self._most(numbers):
                batch = left[: 1 << int(math.log2(most))]  # powers of 2 make a short header
                try:
                    self._put(np.stack([self.tiles[i] for i in batch]), batch)
                except Unfit as error:
                    self.trees[[batch[i] for i in error.images]] = RAW
                    left = [i for i in left if self.trees[i] == FLOW]
                    yield len(error.images)
                    continue
                except Empty:
                    continue
                self.header.batches.append(len(batch))
            else:
                (i,) = batch
                self.trees[i] = self._tree(Leaf(i, self.places[i].alone()))
                self.header.batches.extend([1] * (self.trees[i] == FLOW))
            left = left[len(batch) :]
            yield len(batch)

    def _tree(self, leaf: Leaf) -> str:
        """Put a tile on the stack in halves, as large as can be. Returns its letters."""
        if leaf in self.seeds:
            self.seeds.remove(leaf)
            return WEBP
        parts = leaf.place.halves()
        pixels = self._cut(leaf)
        while not parts or self._most(pixels.size):
            try:
                self._put(pixels[None], [leaf.tile])
            except Unfit:
                return RAW
            except Empty:
                if not parts:
                    raise Short from None
            else:
                return FLOW
        return HALVED + "".join(self._tree(Leaf(leaf.tile, part)) for part in parts)

    def _most(self, numbers: int) -> float:
        """How many tiles of so many numbers there are bits for; 0: less than one."""
        if self.seeds:
            return 0
        most = 16 * self.stack.count / (self.needed * numbers)
        return max(1, min(NUMBERS / numbers, most / RESERVE)) if most >= 1 else 0

    def _put(self, pixels: Pixels, tiles: list[int]) -> None:
        """Put a batch on the stack: pixels, (B, C, h, w), of so many tiles.

        Empty, Unfit: the stack is as it was.
        """
        x = torch.from_numpy(pixels.astype(np.int64))
        classes = None if self.classes is None else self.classes[tiles]
        have = 16 * self.stack.count / x.numel()
        try:
            after, nonce = _pushed(self.coder, x, self.stack, classes)
        except Empty:
            self.needed = 1.05 * have
            raise
        if nonce:
            self.header.nonces[str(self.batches)] = nonce
        self.needed = max(1.0, have - 16 * after.lowest / x.numel())
        self.bits[tiles] += after.bits
        self.stack, self.batches = after, self.batches + 1

    def more_seeds(self, numbers: int, words: int) -> int:
        """How many numbers shall be by WebP, where so many are too few.

        The first leaf, one of the smallest, borrows a word a number at least, beyond the lanes.

        words: that there shall be of all by WebP.
        """
        smallest = self.tiles[0].shape[0] * max(SMALLEST, self.coder.flow.divisor) ** 2
        words = max(words, self.header.lanes + smallest)
        each = self.started / self.seeded if self.seeded else self.coder.dtype.itemsize / 2
        least = max(numbers, self.seeded, smallest)
        # The first leaf may be flat, so what it takes says little of the next.
        return min(max(least * 5 // 4 + 1, int(words / each)), 4 * least)

    def content(self) -> bytes:
        """The chunk's bytes, once all tiles by the flow are on the stack."""
        self.header.kinds = "".join(self.trees)
        leaves = leaves_of(self.places, self.header.kinds)
        raw = [leaf.place.inner(self._cut(leaf)).ravel() for leaf in leaves if leaf.kind == RAW]
        digits = np.concatenate([np.empty(0, np.int64), *raw])
        self.stack.push_all(digits, np.full_like(digits, self.coder.levels))
        said = packed(self.header)
        content = packed_states(self.stack.states) + self.stack.words().astype("<u2").tobytes()
        return len(said).to_bytes(4, "little") + said + content


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


def _lanes(kinds: Kinds, tiles: Sequence[Pixels]) -> int:
    """Each lane saves time, and costs some bits, which weigh more in a small file."""
    numbers = sum(tiles[i].size for i in np.flatnonzero(kinds != WEBP).tolist())
    wanted = 2 ** round(2 * math.log2(max(1, numbers / FEWEST_NUMBERS)))
    return min(max(wanted, FEWEST_LANES if FLOW in kinds else 1), MOST_LANES)
