"""What an archive holds: which pictures, and the tiles that they are coded in."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from realnvp.codec.dequantize import borrowed
from realnvp.codec.side import SIDES, Look, best_side
from realnvp.codec.tiles import Tile, count_tiles, places_of
from realnvp.data.dataset import Shape
from realnvp.data.images import MAX_PIXELS
from realnvp.flows.flow import Flow, config_of


@dataclass(frozen=True)
class Index:
    """What an archive holds."""

    flow: str
    """What the flow was called."""
    channels: int
    """Of the flow's images."""
    divisor: int
    """Of their sides."""
    levels: int
    bits: int
    """Of the grid's step: 2^-bits on the logit's scale."""
    side: int
    """Of the tiles."""
    runs: list[list[int]]
    """[C, H, W, n]: n pictures of this shape, one after the other."""
    names: list[str] | None = None
    """Of the pictures' files, with /."""
    given_as: str | None = None
    """What `compress` was given: array, tensor or list."""

    def __post_init__(self) -> None:
        for run in self.runs:
            if len(run) != 4 or min(run) < 1 or run[1] * run[2] > MAX_PIXELS or run[0] > 4:
                raise ValueError(f"runs: {run} are no pictures")
        if not self.runs:
            raise ValueError("no pictures")
        if not 8 <= self.bits <= 24 or not 2 <= self.levels <= 1 << 16:
            raise ValueError(f"a grid of 2^-{self.bits} for {self.levels} levels")
        if self.channels < 1 or self.divisor < 1 or self.divisor & (self.divisor - 1):
            raise ValueError(f"{self.channels} channels, sides divided by {self.divisor}")
        if self.side not in SIDES:
            raise ValueError(f"tiles of {self.side}")
        if self.names is not None and len(self.names) != self.count:
            raise ValueError(f"{len(self.names)} names for {self.count} pictures")

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return sum(run[3] for run in self.runs)

    @property
    def tiles(self) -> int:
        """How many tiles they have."""
        how = self.channels, self.divisor, self.side
        return sum(n * count_tiles((c, h, w), *how) for c, h, w, n in self.runs)

    @property
    def numbers(self) -> int:
        """Channels of all pixels together."""
        return sum(math.prod(run) for run in self.runs)

    def shapes(self) -> Iterator[Shape]:
        """(C, H, W) of each picture."""
        for c, h, w, n in self.runs:
            for _ in range(n):
                yield c, h, w

    def places(self) -> Iterator[tuple[int, Tile]]:
        """Each tile, with the index of its picture."""
        return places_of(self.shapes(), self.channels, self.divisor, self.side)


def index_of(
    flow: Flow,
    shapes: Sequence[Shape],
    look: Look,
    *,
    name: str = "",
    names: Sequence[str] | None = None,
    given_as: str | None = None,
) -> Index:
    """The index of pictures of these shapes, coded with the flow.

    look: gives a picture, (C, H, W), by its number.
    name: what the flow is called.
    names: of the pictures' files.
    given_as: array, tensor or list.
    """
    config = config_of(flow)
    few = sum(map(math.prod, shapes)) < 100 * 3 * 32 * 32
    # The narrowest level has 29 steps at least.
    deep = max(0, math.ceil(math.log2(config.levels)) - 10)
    finer = 2 if config.model.dequantization == "learned" else 0
    bits = 13 + finer - few + deep
    return Index(
        flow=name,
        channels=config.shape[0],
        divisor=flow.divisor,
        levels=config.levels,
        bits=bits,
        runs=[[*shape, len(list(same))] for shape, same in groupby(shapes)],
        names=None if names is None else list(names),
        given_as=given_as,
        side=best_side(flow, shapes, look, borrowed(config.levels, bits)),
    )
