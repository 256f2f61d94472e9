"""Configurations as JSON, and field by field."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from realnvp.config.fields import Config

Record = TypeVar("Record")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"train.lr": 0.001, ...}: every leaf field by its dotted name."""
    leaves: dict[str, Any] = {}
    for name in (item.name for item in fields(config)):
        value = getattr(config, name)
        nested = is_dataclass(value)
        leaves |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return leaves


def differences(old: Config, new: Config) -> list[str]:
    """Dotted names of the fields in which two configurations differ."""
    before, after = flat(old), flat(new)
    return [
        name
        for name in before | after
        if name not in before or name not in after or before[name] != after[name]
    ]


def to_json(config: Config) -> str:
    """The configuration as JSON text, in the order of its fields."""
    return TypeAdapter(Config).dump_json(config, indent=2).decode() + "\n"


def from_json(text: str | bytes, source: object = "config") -> Config:
    """The configuration in this JSON text. ValueError names the source and the field."""
    return parse_json(Config, text, source)


def parse_json(kind: type[Record], text: str | bytes, source: object) -> Record:
    """The JSON text as a dataclass, list or dict of this type.

    ValueError names the source and the first field that is unknown, missing or of another type.
    """
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(f"{source}: {one_line(error)}") from None


def one_line(error: ValidationError) -> str:
    """The first error, such as 'model.width: Input should be greater than or equal to 1'."""
    first = error.errors(include_url=False)[0]
    place = [str(part) for part in first["loc"]]
    if error.title in ("data", "model", "train"):
        place.insert(0, error.title)
    elif error.title == "config" and place[:1] == ["data"]:
        place[1:2] = ["set"] if len(place) == 1 else []  # in place of the tag of the union
    own = first.get("ctx", {}).get("error")
    return str(own) if own else f"{'.'.join(place) or 'JSON'}: {first['msg']}"


def read_config(path: Path) -> Config:
    """The configuration in a JSON file. ValueError names the file and the field."""
    return from_json(path.read_bytes(), path)
