"""What a single field allows, beside its default: `width: int = bounded(32, between(1, 4096))`.

And what a single parameter of a function allows: `check_number("n", n, int, AT_LEAST_ONE)`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from math import inf
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar

from realnvp.config.errors import ParameterError
from realnvp.config.reading import is_colour

Number = TypeVar("Number", int, float)


class Bound(NamedTuple):
    """What a value must keep; None always passes."""

    holds: Callable[[Any], bool]
    words: str


def bounded(default: Any, *bounds: Bound) -> Any:
    """A field of a dataclass with this default and these bounds."""
    return dataclasses.field(default=default, metadata={"bounds": bounds})


def broken(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted name of each field that breaks a bound, in the order of the fields, and which."""
    for item in dataclasses.fields(config):
        value, path = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            yield from broken(value, f"{path}.")
        for bound in item.metadata.get("bounds", ()):
            if value is not None and not bound.holds(value):
                yield path, bound.words


def check_number(name: str, value: Any, kind: type[Number], bound: Bound) -> Number:
    """The value of a parameter as a number of Python's.

    value: a number, of Python or numpy, or an array or a tensor without dimensions.
    kind: int takes whole numbers, 3.0 too; float takes all real ones.

    ParameterError: it is no number of this kind, or breaks the bound.
    """
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    if kind is int and isinstance(number, float) and number.is_integer():
        number = int(number)
    fits = isinstance(number, Integral if kind is int else Real) and not isinstance(number, bool)
    if not fits:
        wanted = "a whole number" if kind is int else "a number"
        raise ParameterError(name, f"must be {wanted}, got {value!r}")
    if not bound.holds(number):
        raise ParameterError(name, f"{bound.words}, got {number}")
    return kind(number)


def between(low: float, high: float) -> Bound:
    """Both ends included."""
    return Bound(lambda value: low <= value <= high, f"must be between {low} and {high}")


def positive(below: float = inf) -> Bound:
    """More than 0, and less than what can only be a mistake."""
    return Bound(lambda value: 0 < value < below, "must be positive")


AT_LEAST_ZERO = Bound(lambda value: 0 <= value < inf, "must be a number of at least 0")
AT_LEAST_ONE = Bound(lambda value: value >= 1, "must be at least 1")
BETWEEN_0_AND_1 = Bound(lambda value: 0 < value < 1, "must be between 0 and 1")
AT_MOST_HALF = Bound(lambda value: 0 < value <= 0.5, "must be above 0 and at most 0.5")
BELOW_HALF = Bound(lambda value: 0 < value < 0.5, "must be between 0 and 0.5")
NOT_NEGATIVE = Bound(lambda value: 0 <= value < inf, "must not be negative")
BELOW_ONE = Bound(lambda value: 0 <= value < 1, "must be in [0, 1)")
SHARE = Bound(lambda value: 0 < value <= 1, "must be more than 0 and at most 1")
MORE_THAN_ONE = Bound(lambda value: value > 1, "must be more than 1")
POSITIVE_OR_INFINITE = Bound(lambda value: value > 0, "must be positive")
SEED = Bound(lambda value: 0 <= value < 2**63, "must be between 0 and 2^63 - 1")
SHAPE = (
    Bound(lambda value: len(value) in (1, 3), "must be one or three integers"),
    Bound(lambda value: 1 <= min(value) <= max(value) <= 65536, "must be between 1 and 65536"),
)
COLOUR = Bound(is_colour, "must be white, black or #rrggbb")
DIFFERENT = Bound(lambda value: len({*value}) == len(value), "must be different names")
