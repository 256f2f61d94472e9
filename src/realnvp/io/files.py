"""Files that are written whole or not at all, and that are checked when they are read."""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import safetensors.torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from realnvp.config.json import parse_json

Record = TypeVar("Record")
DAY = 24 * 60 * 60.0
KEY = "realnvp"  # of the metadata
NO_CHECKSUM = "0" * 64


class DamagedError(Exception):
    """A file that this program wrote is not as it was written."""

    exit_code = 1


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Context: a binary file that takes the place of `path` at the end, once it is on the disk.

    If the block fails, `path` stays as it was. OSError names `path`.
    """
    # Hosts that share a disk share process ids, but hardly 64 random bits.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.realnvp.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. File names in it that are not UTF-8 keep their bytes."""
    with atomic_write(path) as file:
        file.write(text.encode(errors="surrogateescape"))


def remove_stale(folder: Path) -> None:
    """Delete temporaries of `atomic_write` that are older than a day: their writers are gone."""
    for path in folder.glob(f".?*.{'[0-9a-f]' * 16}.realnvp.tmp"):
        if time.time() - path.stat().st_mtime > DAY:
            path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Context: other processes are locked out of the folder, which is made if it is missing.

    ValueError: another process is in it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    try:
        lock = FileLock(path).acquire(blocking=False)
    except Timeout:
        raise ValueError(f"{folder}: in use by another process") from None
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows deletes no open file
                path.unlink()
                for empty in made:  # if nothing was written
                    empty.rmdir()


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors, and JSON metadata with a checksum of the whole file, atomically.

    safetensors alone reads a file with a flipped bit.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry: safetensors writes several in any order.
    content = safetensors.torch.save(stored, {KEY: NO_CHECKSUM + json.dumps(metadata)})
    head, _, tail, checksum = _with_checksum(content)
    with atomic_write(path) as file:
        file.writelines([head, checksum, tail])


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file that `write_safetensors` wrote.

    DamagedError: a bit has changed, or the file is truncated or of another program.
    """
    content = path.read_bytes()
    try:
        _, stored, _, checksum = _with_checksum(content)
        if stored != checksum:
            raise ValueError("the checksum differs")
        size = int.from_bytes(content[:8], "little")
        text = json.loads(content[8 : 8 + size])["__metadata__"][KEY]
        return safetensors.torch.load(content), json.loads(text[len(checksum) :])
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{path}: damaged, or not a file of realnvp ({error})") from None


def _with_checksum(content: bytes) -> tuple[memoryview, memoryview, memoryview, bytes]:
    """A file before, at and after its checksum, and the checksum that it should have."""
    mark, view = f'"{KEY}":"'.encode(), memoryview(content)
    start = content.index(mark) + len(mark)
    end = start + len(NO_CHECKSUM)
    digest = hashlib.sha256(view[:start])
    digest.update(NO_CHECKSUM.encode())
    digest.update(view[end:])
    return view[:start], view[start:end], view[end:], digest.hexdigest().encode()


def read_json(kind: type[Record], path: Path) -> Record:
    """The content of a JSON file, as `list[Session]`. ValueError names the file and the field."""
    return parse_json(kind, path.read_bytes(), path)


def render(template: str, **values: Any) -> str:
    """Render an HTML page of the folder templates by Jinja2; values are escaped."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("realnvp"), autoescape=True)
    return environment.get_template(template).render(values)
