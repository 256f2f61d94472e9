"""The line of code, or the flag, that mends what is given in other units or another order."""

import difflib
from collections.abc import Iterable, Sequence


class ParameterError(ValueError):
    """A parameter of a function has a value that cannot be used.

    As a ValueError it reads `name: words`. The command line writes the flag instead of the name,
    scikit-learn's estimators their own name.
    """

    def __init__(self, name: str, words: str) -> None:
        super().__init__(f"{name}: {words}")
        self.name, self.words = name, words

    def __reduce__(self) -> tuple[type["ParameterError"], tuple[str, str]]:
        return type(self), (self.name, self.words)


class Reasons(ValueError):
    """Files that cannot be used: a line for each reason. The command line prints them so."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = [*lines]
        super().__init__("; ".join(self.lines))

    def __reduce__(self) -> tuple[type["Reasons"], tuple[list[str]]]:
        return type(self), (self.lines,)


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' with the nearest known word, or '' where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(words: Sequence[str], most: int = 20, more: str = "more") -> str:
    """'a; b; and 3 more': the first `most` of the words, and how many others there are."""
    others = [f"and {len(words) - most} {more}"] if len(words) > most else []
    return "; ".join([*words[:most], *others])


def enumerated(words: Sequence[str], most: int = 10) -> str:
    """'a, b and 3 more': the first `most` of the words, and how many others there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if words[most:] else "")


def count_of(count: int, thing: str) -> str:
    """'1 image', '2 images'."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def quoted(names: Sequence[str]) -> str:
    """Names that may be empty or have commas: 'a', 'b' and 3 more."""
    return enumerated([*map(repr, names)])


def install_line(extra: str) -> str:
    """How to install the packages of an extra of this one."""
    return f"pip install 'realnvp[{extra}]' (in a clone: pip install -e '.[{extra}]')"


def one_line(error: Exception) -> str:
    """What an error says, in one line; the name of its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def reason(error: Exception) -> str:
    """Why something failed, in one line; an error of the system without its number and path."""
    return getattr(error, "strerror", None) or one_line(error)


def in_bytes(count: int) -> str:
    """'1.5 GiB', or '47 MiB' where it is less than a tenth of one."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.0f} MiB"


def last_line(error: Exception) -> str:
    """The last line of a long error: torch's say there what is wrong."""
    return str(error).splitlines()[-1].strip()


def as_uint8(name: str, dtype: object, *, numpy: bool) -> str:
    """How to make uint8 images of these; dtype: torch's, numpy's or its name."""
    cast = ".astype(np.uint8)" if numpy else ".to(torch.uint8)"
    if "float" in str(dtype):
        return f"floats in 0..1 become it by (255 * {name}).round(){cast}"
    if "16" in str(dtype):
        return f"16 bits become it by ({name} >> 8){cast}"
    return f"values in 0..255 become it by {name}{cast}"


def in_order(name: str, shape: Sequence[int], expected: Sequence[int], *, numpy: bool) -> str:
    """': if ..., line' that makes a batch, (B, *expected), of this shape, or ''.

    expected: of one x, (C, H, W) or (D,); only its first entry and length count.
    """
    channels, sides = expected[0], len(expected) - 1
    if sides and len(shape) == 2 + sides and shape[-1] == channels:
        move = "np.moveaxis({}, -1, 1)" if numpy else "{}.movedim(-1, 1)"
        return f"; channels last? {move.format(name)}"
    if len(shape) == 1 + sides and shape[:1] == (channels,):
        return f"; one alone? {name}[None]"
    if sides == len(shape) - 1 == 2 and channels == 1:
        return f"; grey, without channels? {name}[:, None]"
    return ""


def as_colours(channels: int) -> str:
    """The flag that makes all pictures have so many channels, or ''."""
    return {1: "--color-mode grey", 3: "--color-mode rgb"}.get(channels, "")


def as_levels(name: str, levels: int, *, negative: bool) -> str:
    """How to make v, grey levels, of floats in 0..1 or, if some are negative, in -1..1."""
    scale = f"{(levels - 1) / 2:g} * ({name} + 1)" if negative else f"{levels - 1} * {name}"
    return f"v = ({scale}).round().to(torch.uint{8 if levels <= 256 else 16})"
