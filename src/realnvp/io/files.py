"""Folders that are written whole or not at all, and that tell when a bit of them has changed."""

import csv
import dataclasses
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any, BinaryIO

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from realnvp.config.resolve import Record, parse_json, typed
from realnvp.device import Lock


def write_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file with these tensors."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(stored)


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; DamagedError names the path if it is none."""
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{path}: {error}") from None


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


LOCK = ".lock"
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Context: the folder is locked to other processes, until the end of this one at the latest.

    At the end the lock's file is deleted, and folders that were made for it and are still empty.
    ValueError: another process is in. Warns where the file system has no locks; Windows has none.
    """
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    path = folder / LOCK
    with _locked(path) as file:
        try:
            yield
        finally:
            with suppress(OSError):
                at, mine = path.stat(), os.fstat(file.fileno())
                if os.path.samestat(at, mine) and not at.st_size:  # ours is empty
                    # Before the lock goes: whoever has the file open by then finds it deleted.
                    path.unlink()
                for each in new:
                    each.rmdir()


def _locked(path: Path) -> IO[bytes]:
    """A file, open and locked until it is closed; made where it is missing."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            file = path.open("ab")
            if sys.platform != "win32":
                _lock(file, path.parent)
            # If the file was deleted meanwhile, its lock would keep nobody out: try again.
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file


def _lock(file: IO[bytes], folder: Path) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{folder}: another process is at work in it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            f"{folder}: its file system has no locks ({error.strerror}): "
            "let no other process write into it",
            stacklevel=5,
        )


TEMPORARY = re.compile(r"\..+\.realnvp-(\d+)(-\d+)?\.tmp", re.DOTALL)
COUNT = count()
IN_USE: set[str] = set()
"""The names that this process's threads are writing under."""
FULL = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG")}
"""Errors of a disk or a quota that is full, or of a limit."""
# Names that an interrupted write of version 0.1.0 left in a run directory. No wider pattern: other
# programs use such names, too.
OLD_FILE = re.compile(r"\.(config\.json|environment\.json|metrics\.jsonl|step-\d{9,}\.png)\.tmp")
OLD_FOLDER = re.compile(r"\.(best|last|step)-\d{9,}(\.old)?\.tmp")


def write_file(target: Path, text: str) -> None:
    """Write a text file whole or not at all. File names in it that are not UTF-8 stay."""
    content = text.encode(errors="surrogateescape")
    atomic_save(target, lambda file: file.write(content), size=len(content))


def atomic_save(
    path: Path,
    write: Callable[[BinaryIO], object],
    *,
    size: int | None = None,
    keep: bool = False,
) -> None:
    """Write a file whole or not at all: into a hidden sibling, to the disk, then renamed.

    size: the bytes it will take, for the message of a full disk.
    keep: leave what an interrupted call wrote in the sibling, where the next `write` finds it. Only
    for whoever has locked the folder, since all such calls share the sibling.
    """
    with nullcontext(kept_sibling(path)) if keep else temporary(path) as sibling:
        begun = keep and sibling.exists()
        try:
            with os_errors_name(path, size), sibling.open("r+b" if begun else "w+b") as file:
                write(file)
                to_disk(file)
            sibling.replace(path)
        except BaseException:
            if not keep:
                with suppress(OSError):  # it is not there, or the disk is read-only
                    sibling.unlink()
            raise


def to_disk(file: BinaryIO) -> None:
    """Wait until what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def os_errors_name(path: Path, size: int | None = None) -> Iterator[None]:
    """Context: an error of the disk names the path; of a full disk, also the bytes that it needs.

    The system's own error names no file, or what is written in the path's place until it is whole.
    """
    try:
        yield
    except OSError as error:
        named = error.filename is not None and not TEMPORARY.fullmatch(Path(error.filename).name)
        if error.errno is None or named:
            raise
        needed = f"; {size:,} bytes are needed" if size is not None and error.errno in FULL else ""
        raise OSError(error.errno, f"{error.strerror}{needed}", str(path)) from None


def kept_sibling(path: Path) -> Path:
    """Where `atomic_save` with `keep` writes a file until it is whole."""
    return path.with_name(f".{path.name}.realnvp.tmp")


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Context: where this thread alone writes a file or folder until it is whole.

    Deletes what interrupted writes have left of the path, not what is being written.
    """
    remove_stale(path.parent, path.name)
    own = path.with_name(f".{path.name}.realnvp-{os.getpid()}-{next(COUNT)}.tmp")
    IN_USE.add(own.name)
    try:
        yield own
    finally:
        IN_USE.discard(own.name)


def remove_stale(parent: Path, name: str | None = None) -> None:
    """Delete what processes that have ended left of interrupted writes in this folder.

    Nothing else, since other files with such names are the user's.
    name: of the file or folder that was written. None: any.
    """
    pattern = ".*.tmp" if name is None else f".{glob.escape(name)}.realnvp-*.tmp"
    for orphan in parent.glob(pattern):  # another may delete it first
        is_folder = orphan.is_dir() and not orphan.is_symlink()
        if found := TEMPORARY.fullmatch(orphan.name):
            left = not _at_work(int(found[1]), orphan.name)
        else:
            old = OLD_FOLDER if is_folder else OLD_FILE
            left = name is None and bool(old.fullmatch(orphan.name))
        if left and is_folder:
            shutil.rmtree(orphan, ignore_errors=True)
        elif left:
            orphan.unlink(missing_ok=True)


def _at_work(pid: int, name: str) -> bool:
    """Whether a process of this number may be writing under this name.

    Windows: another always may, since asking would end it.
    """
    if pid == os.getpid():  # or an earlier process of this number left it
        return name in IN_USE
    try:
        if sys.platform != "win32":
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def partial_path(out: Path) -> Path:
    """Where the rows of a table are, until it is whole: FILE.partial."""
    return out.with_name(f"{out.name}.partial")


@contextmanager
def growing(out: Path | None, columns: Sequence[str]) -> Iterator[Callable[..., None]]:
    """Context: a function that appends a row to FILE.partial, and to the disk at once.

    What has been written stays if the process is ended. Afterwards, when `out` itself is written,
    the file is deleted.

    out: the file that the table will become. None: nothing is written.
    columns: the first row.

    ValueError: FILE.partial is something else.
    """
    if out is None:
        yield lambda *row: None
        return
    path = partial_path(out)
    if path.exists() and not path.read_bytes().startswith(b"path,"):
        raise ValueError(f"{path}: was not written by this command, so it is not replaced")
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)

        def append(*row: Any) -> None:
            table.writerow(row)
            file.flush()

        yield append
    path.unlink()


MANIFEST = "manifest.json"
CARD = "README.md"
REPLACING = Lock()  # or another thread replaces a folder that this one looks at or makes room for


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder with these files whole or not at all: under a temporary name, then renamed.

    manifest.json names their sha256. README.md is not in it: people edit it.
    Replaces an earlier folder of this kind. ValueError: something else is there, or somebody has
    put more into the folder.
    """
    with REPLACING:
        if target.exists() and (complaint := _why_not_ours(target, files)):
            raise ValueError(f"{target}: {complaint}, so it is not replaced")
    manifest = {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != CARD
    }
    with temporary(target) as new:
        try:
            with os_errors_name(target, sum(map(len, files.values()))):
                new.mkdir(parents=True)
                for name, content in [
                    *files.items(),
                    (MANIFEST, json.dumps(manifest, indent=2).encode()),
                ]:
                    with (new / name).open("wb") as file:
                        file.write(content)
                        to_disk(file)
                _flush(new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        with REPLACING:
            if target.exists():
                discard(target)
            new.rename(target)
    _flush(target.parent)


def discard(folder: Path) -> None:
    """Delete a folder, hidden first: if this process is ended, no half of the folder is visible."""
    with temporary(folder.with_name(f"{folder.name}.old")) as hidden:
        folder.rename(hidden)
        shutil.rmtree(hidden)


def _why_not_ours(folder: Path, names: Iterable[str] | None = None) -> str:
    """Why a folder may not be deleted: not `write_folder`'s, or holds more. '': it may be.

    names: what it may hold. None: what its manifest names.
    """
    try:
        manifest = _read_manifest(folder)
    except (OSError, ValueError):
        return "exists and was not written by this program"
    known = {MANIFEST, *(manifest if names is None else names)}
    others = sorted({path.name for path in folder.iterdir()} - known)
    return f"exists and holds {others[0]!r}, which does not belong there" if others else ""


def _read_manifest(folder: Path) -> dict[str, str]:
    """{file name: sha256}; ValueError or OSError: there is none."""
    path = folder / MANIFEST
    manifest = parse_record(dict[str, str], path.read_bytes(), path)
    if not manifest:
        raise ValueError(f"{path}: names no files")
    return manifest


def read_folder(folder: Path) -> dict[str, bytes]:
    """{file name: content} of a folder that `write_folder` wrote.

    DamagedError names a file that is missing or has changed.
    """
    with damaged_if_invalid():
        manifest = _read_manifest(folder)
        files = {name: (folder / name).read_bytes() for name in manifest if Path(name).name == name}
    for name, digest in manifest.items():
        if name not in files or hashlib.sha256(files[name]).hexdigest() != digest:
            raise DamagedError(f"{folder / name}: damaged, its sha256 is not the one in {MANIFEST}")
    return files


def newest_intact(parent: Path, prefix: str) -> tuple[dict[str, bytes] | None, list[str]]:
    """The files of the last intact folder PREFIX-NUMBER, and what was wrong with newer ones.

    None: no folder is intact.
    """
    complaints: list[str] = []
    for folder in reversed(numbered(parent, prefix)):
        try:
            return read_folder(folder), complaints
        except DamagedError as error:
            complaints.append(str(error))
    return None, complaints


def numbered(parent: Path, prefix: str) -> list[Path]:
    """Folders PREFIX-NUMBER of a folder, by number."""
    numbers = {path: path.name.removeprefix(f"{prefix}-") for path in parent.glob(f"{prefix}-*")}
    found = (path for path, number in numbers.items() if re.fullmatch("[0-9]+", number))
    return sorted(found, key=lambda path: int(numbers[path]))


def keep_last(parent: Path, prefix: str, count: int) -> None:
    """Delete the folders PREFIX-NUMBER that `write_folder` wrote, all but the last `count`."""
    ours = [folder for folder in numbered(parent, prefix) if not _why_not_ours(folder)]
    for folder in ours[:-count]:
        discard(folder)


def _flush(folder: Path) -> None:
    if sys.platform == "win32":  # where folders cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with os_errors_name(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
