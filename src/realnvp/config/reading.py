"""How image files become pixels, where there is a choice."""

import re
from typing import Any, NamedTuple

NAMED = {"white": (255, 255, 255), "black": (0, 0, 0)}


class Reading(NamedTuple):
    """What to do with a picture that is not like the others. None: it is refused."""

    background: str | None = None
    """What transparent pixels lie on: white, black or #rrggbb."""
    colours: str | None = None
    """grey or rgb: what every picture becomes."""
    depth: int | None = None
    """8 or 16 bits a channel: 8 keeps the upper byte of 16, 16 stretches 8 (v becomes 257 v)."""

    def but(self, given: "Reading") -> "Reading":
        """These choices, but for those that are given."""
        return Reading(**{**self._asdict(), **given.chosen()})

    def chosen(self) -> dict[str, Any]:
        """The choices that are made, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


AS_FOUND = Reading()


def rgb_of(colour: str) -> tuple[int, ...]:
    """(red, green, blue), 0 .. 255 each, of white, black or #rrggbb."""
    return NAMED.get(colour) or tuple(bytes.fromhex(colour[1:]))


def is_colour(text: str) -> bool:
    """Whether it is white, black or #rrggbb."""
    return text in NAMED or re.fullmatch("#[0-9a-fA-F]{6}", text) is not None
