"""Records: JSON that a run wrote, read into dataclasses. What is wrong there is damage."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realnvp.config.typed import Record, parse_json, typed


class DamagedError(Exception):
    """A stored file is not what was written."""

    exit_code = 1


@contextmanager
def damaged_if_invalid() -> Iterator[None]:
    """Context: a missing or invalid file is a DamagedError, since a run wrote it."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DamagedError(f"{error.filename}: missing") from None
    except ValueError as error:
        raise DamagedError(str(error)) from None


def read_record(kind: type[Record], path: Path, *, maker: str = "") -> Record:
    """The record in a file: `read_record(list[Sitting], run / "environment.json")`.

    maker: the command that writes it.
    ValueError: there is no such file. DamagedError: it is not JSON, or a field is missing or wrong.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file{maker and f'; {maker} writes it'}")
    with damaged_if_invalid():
        return parse_record(kind, path.read_bytes(), path)


def parse_record(kind: type[Record], text: bytes, path: Path) -> Record:
    """The record in the text of a file; ValueError names the file, and the field that is wrong.

    Unknown fields are passed over; only fields whose default is None may be missing.
    """
    tree = parse_json(text, path)
    try:
        return typed(kind, tree, by_hand=False)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None


def fields_of(record: Any) -> dict[str, Any]:
    """The fields of a record for JSON; optional ones that are None are left out."""
    optional = {item.name for item in dataclasses.fields(record) if item.default is None}
    return {
        name: value
        for name, value in dataclasses.asdict(record).items()
        if value is not None or name not in optional
    }
