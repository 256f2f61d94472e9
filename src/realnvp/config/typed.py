"""From JSON to values of the right types, or the name of the field that is not."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from realnvp.config.words import nearest

Record = TypeVar("Record")
WORDS = {
    float: "number",
    int: "integer",
    bool: "true or false",
    str: "text",
    types.NoneType: "null",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}


def parse_json(text: str | bytes, source: str | Path) -> Any:
    """What JSON text says; ValueError names the source."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not JSON: {error}") from None


def typed(kind: type[Record], value: Any, *, by_hand: bool = True) -> Record:
    """A value of JSON as a dataclass, list or dict of this kind: `typed(list[Point], [{"x": 1}])`.

    by_hand: people write it. Unknown fields are refused, and missing ones take their defaults.
    False: a program wrote it, perhaps a later version. Unknown fields are passed over, and none may
    be missing but those whose default is None.
    ValueError names the first field that is missing, unknown (with the nearest name) or of another
    type; OverflowError: an integer is too large for its float.
    """
    return _typed(kind, value, "", by_hand)


def _typed(kind: Any, value: Any, path: str, by_hand: bool) -> Any:
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for option in options:
        outer, inner = typing.get_origin(option) or option, typing.get_args(option)
        if dataclasses.is_dataclass(outer) and (isinstance(value, dict) or option is kind):
            return _record(outer, value, path, by_hand)
        if outer is float and type(value) is int:
            return float(value)
        if inner and outer is dict and isinstance(value, dict):
            return {
                key: _typed(inner[1], item, f"{path}.{key}" if path else key, by_hand)
                for key, item in value.items()
            }
        if inner and outer in (list, tuple) and isinstance(value, list):
            return outer(
                _typed(inner[0], item, f"{path}[{i}]", by_hand) for i, item in enumerate(value)
            )
        if outer is Any or type(value) is outer or (outer is Literal and value in inner):
            return value
    raise ValueError(f"{path or 'the top'}: {value!r} is not {' or '.join(map(_words, options))}")


def _record(kind: Any, tree: Any, path: str, by_hand: bool) -> Any:
    """The dataclass with the fields of a JSON object."""
    if not isinstance(tree, dict):
        raise ValueError(f"{path or 'the top'} must be an object, got {tree!r}")
    prefix, hints = path and f"{path}.", typing.get_type_hints(kind)
    unknown = next((name for name in tree if name not in hints), None)
    if by_hand and unknown is not None:
        raise ValueError(f"unknown field {prefix + unknown!r}{nearest(unknown, hints)}")
    for item in dataclasses.fields(kind):
        has_default = item.default is not item.default_factory  # else both are MISSING
        if item.name not in tree and item.default is not None and not (by_hand and has_default):
            raise ValueError(f"{prefix}{item.name} is missing")
    return kind(
        **{
            name: _typed(hints[name], value, prefix + name, by_hand)
            for name, value in tree.items()
            if name in hints
        }
    )


def _words(option: Any) -> str:
    if typing.get_origin(option) is Literal:
        return " or ".join(map(repr, typing.get_args(option)))
    return WORDS.get(typing.get_origin(option) or option, "an object")
