"""What log-densities are reported in: bits/dim of images, nats of a table's rows."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from realnvp.config.fields import Config, TableData

if TYPE_CHECKING:
    from torch import Tensor

Nats = TypeVar("Nats", float, "Tensor")


def in_bits_per_dim(nats: Nats, shape: Sequence[int]) -> Nats:
    """-log2 p / D of log-densities in nats, for images of this shape."""
    return nats / (-math.log(2) * math.prod(shape))


class Unit(NamedTuple):
    """A unit in which the log-densities of a run are reported."""

    key: str
    """Its name in JSON."""
    words: str
    things: str
    """What has log-densities: images or rows."""
    sign: int
    """1 where more is better, -1 where less is."""

    @property
    def thing(self) -> str:
        """One of the things."""
        return self.things[:-1]

    def of(self, nats: Nats, shape: Sequence[int]) -> Nats:
        """Log-densities in this unit."""
        return in_bits_per_dim(nats, shape) if self.sign < 0 else nats


BITS_PER_DIM = Unit("bits_per_dim", "bits/dim", "images", -1)
LOG_LIKELIHOOD = Unit("log_likelihood", "nats", "rows", 1)


def unit_of(config: Config | None) -> Unit:
    """Bits/dim for images; nats a row for tables, in the units of their columns."""
    table = config is not None and isinstance(config.data, TableData)
    return LOG_LIKELIHOOD if table else BITS_PER_DIM
