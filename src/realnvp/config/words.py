"""Words that messages share."""

import difflib
from collections.abc import Iterable, Sequence


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
