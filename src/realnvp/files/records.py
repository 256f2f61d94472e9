"""JSON of ours, checked where it is read: what makes no sense there is damage, not bad input."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar


class DamagedError(Exception):
    """A stored file is not what was written."""

    exit_code = 1


@contextmanager
def ours() -> Iterator[None]:
    """Within it, a file that makes no sense is not bad input but a damaged file of ours."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DamagedError(f"{error.filename}: missing") from None
    except ValueError as error:
        raise DamagedError(str(error)) from None


Kind = TypeVar("Kind", dict[str, Any], list[Any])
Fields = Mapping[str, type | UnionType]


def read_json(path: Path, *, kind: type[Kind], maker: str = "", fields: Fields | None = None) -> Kind:
    """What `parse_json` makes of a file of ours; ValueError if there is none, with the command that makes it."""
    if not path.exists():
        raise ValueError(f"{path}: no such file{maker and f'; {maker} writes it'}")
    with ours():
        return parse_json(path.read_bytes(), path, kind=kind, fields=fields)


def parse_json(text: bytes, path: Path, *, kind: type[Kind], fields: Fields | None = None) -> Kind:
    """The object or list in the text of a JSON file, not empty where fields are wanted.

    fields: names and types in that object, or in each one of the list.

    ValueError names the file, and the field that is wrong.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, kind) or not (content or fields is None):
        raise ValueError(f"{path}: lacks what it should hold")
    for entry in content if isinstance(content, list) else [content]:
        check_fields(entry, path, fields or {})
    return content


def check_fields(content: Any, path: Path, fields: Fields) -> None:
    """ValueError names the file, and the first of the fields that is missing or of another type."""
    for name, type_ in fields.items():
        if not isinstance(content, dict) or name not in content or not isinstance(content[name], type_):
            raise ValueError(f"{path}: {name} is missing or makes no sense")
