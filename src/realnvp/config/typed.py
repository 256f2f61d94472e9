"""From JSON's objects to a dataclass of the right types, or the name of the field that is not."""

import dataclasses
import difflib
import types
import typing
from typing import Any, Literal

from realnvp.config.fields import Shape


def typed(cls: type, tree: Any, prefix: str = "") -> Any:
    """The dataclass with these fields; ValueError names the one that is unknown, with the nearest name, or of another type."""
    if not isinstance(tree, dict):
        raise ValueError(f"{prefix.rstrip('.') or 'the top'} must be an object, got {tree!r}")
    hints = typing.get_type_hints(cls)
    if unknown := next((name for name in tree if name not in hints), None):
        raise ValueError(f"unknown field {prefix + unknown!r}{nearest(unknown, hints)}")
    return cls(**{name: _value(hints[name], value, prefix + name) for name, value in tree.items()})


def _value(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return typed(typing.cast(type, hint), value, path + ".")
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if typing.get_origin(option) is tuple and isinstance(value, list):
            kind = typing.get_args(option)[0]
            if all(type(entry) is kind for entry in value) and (kind is str or len(value) in (1, 3)):
                return tuple(value)
        if isinstance(option, type) and type(value) is option:
            return value
    names = {
        float: "number",
        int: "integer",
        bool: "true or false",
        str: "text",
        types.NoneType: "null",
        Shape: "one or three integers",
        tuple[str, ...]: "a list of names",
    }
    wanted = " or ".join(names.get(option) or " or ".join(map(repr, typing.get_args(option))) for option in options)
    raise ValueError(f"{path}: {value!r} is not {wanted}")


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """' (did you mean ...?)' with the nearest known word, or '' where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
