"""Folders that are written whole or not at all, and that tell when a bit of them has changed."""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from realnvp.files.records import DamagedError, damaged_if_invalid, parse_record

MANIFEST, LOCK = "manifest.json", ".lock"
CARD = "README.md"
TEMPORARY = re.compile(r"\..+\.realnvp-(\d+)\.tmp", re.DOTALL)
# What an interrupted write of version 0.1.0 left in a run directory: names that others use, too, so no others than these.
OLD_FILE = re.compile(r"\.(config\.json|environment\.json|metrics\.jsonl|step-\d{9,}\.png)\.tmp")
OLD_FOLDER = re.compile(r"\.(best|last|step)-\d{9,}(\.old)?\.tmp")
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder with these files and a manifest of their sha256: under a temporary name, flushed to disk, then renamed.

    README.md is not in the manifest: people edit it.

    An earlier folder of the same kind is replaced. ValueError if what stands there is something
    else, or if somebody has put more into it.
    """
    if target.exists():
        _check_ours(target, files)
    temporary = _temporary(target)
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != CARD}
    try:
        with os_errors_name(target, sum(map(len, files.values()))):
            temporary.mkdir(parents=True)
            for name, content in [*files.items(), (MANIFEST, json.dumps(manifest, indent=2).encode())]:
                _write(temporary / name, content)
            _flush(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():
        discard(target)
    temporary.rename(target)
    _flush(target.parent)


def write_file(target: Path, text: str) -> None:
    """Write a file of text whole or not at all; a file's name in it that is not UTF-8 keeps its bytes."""
    content = text.encode(errors="surrogateescape")
    atomic_save(target, lambda file: file.write(content), size=len(content))


def atomic_save(path: Path, write: Callable[[BinaryIO], object], *, size: int | None = None, keep: bool = False) -> None:
    """Writes a file whole or not at all: into a hidden sibling, to the disk, then renamed.

    size: the bytes it will take, for the message of a full disk.
    keep: what an interrupted call wrote stays in the sibling, and the next `write` finds it; only
    for whoever has locked the folder, since all such calls share the sibling.
    """
    temporary = kept_sibling(path) if keep else _temporary(path)
    try:
        with os_errors_name(path, size), temporary.open("r+b" if keep and temporary.exists() else "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        if not keep:
            temporary.unlink(missing_ok=True)
        raise


def kept_sibling(path: Path) -> Path:
    """Where `atomic_save` with `keep` writes a file until it is whole."""
    return path.with_name(f".{path.name}.realnvp.tmp")


def _temporary(path: Path) -> Path:
    """Where this process writes a file or folder until it is whole, and no other process does.

    What processes that are gone have left there for the same path is deleted.
    """
    sweep(path.parent, path.name)
    return path.with_name(f".{path.name}.realnvp-{os.getpid()}.tmp")


def sweep(parent: Path, name: str | None = None) -> None:
    """Delete what processes that are gone left of interrupted writes: of one name, or all of them.

    Nothing else: whatever is called so in another way is the user's.
    """
    for orphan in parent.glob(".*.tmp" if name is None else f".{glob.escape(name)}.realnvp-*.tmp"):
        is_folder = orphan.is_dir() and not orphan.is_symlink()
        if found := TEMPORARY.fullmatch(orphan.name):
            left = not _at_work(int(found[1]))
        else:
            left = name is None and bool((OLD_FOLDER if is_folder else OLD_FILE).fullmatch(orphan.name))
        if left:
            shutil.rmtree(orphan) if is_folder else orphan.unlink(missing_ok=True)


def _at_work(pid: int) -> bool:
    """Whether there is another process with this number; on Windows, where to ask would end it, always."""
    if pid == os.getpid():  # one of an earlier process: this one writes nothing at the moment
        return False
    try:
        if sys.platform != "win32":
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def os_errors_name(path: Path, size: int | None = None) -> Iterator[None]:
    """Within it, an error of the disk names the path and the bytes that it was to hold: the system's own names no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        needed = "" if size is None else f"; {size:,} bytes are needed"
        raise OSError(error.errno, f"{error.strerror}{needed}", str(path)) from None


def discard(folder: Path) -> None:
    """Delete a folder; it is hidden first, so that whoever ends this process leaves no half of it."""
    hidden = _temporary(folder.with_name(f"{folder.name}.old"))
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _check_ours(folder: Path, names: Iterable[str] | None = None) -> None:
    """ValueError if a folder is not one that `write_folder` wrote, or holds more than that, or than these names."""
    try:
        manifest = _read_manifest(folder)
    except (OSError, ValueError):
        raise ValueError(f"{folder}: exists and was not written by this program, so it is not replaced") from None
    known = {MANIFEST, *(manifest if names is None else names)}
    if others := sorted({path.name for path in folder.iterdir()} - known):
        raise ValueError(f"{folder}: exists and holds {others[0]!r}, which does not belong there, so it is not replaced")


def _read_manifest(folder: Path) -> dict[str, str]:
    """{file name: sha256}; ValueError or OSError: there is none."""
    path = folder / MANIFEST
    manifest = parse_record(dict[str, str], path.read_bytes(), path)
    if not manifest:
        raise ValueError(f"{path}: names no files")
    return manifest


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds nothing but what `write_folder` wrote."""
    try:
        _check_ours(folder)
    except ValueError:
        return False
    return True


def read_folder(folder: Path) -> dict[str, bytes]:
    """{file name: content} of a folder that `write_folder` wrote; DamagedError names a file that is missing or changed."""
    with damaged_if_invalid():
        manifest = _read_manifest(folder)
        files = {name: (folder / name).read_bytes() for name in manifest if Path(name).name == name}
    for name, digest in manifest.items():
        if name not in files or hashlib.sha256(files[name]).hexdigest() != digest:
            raise DamagedError(f"{folder / name}: damaged, its sha256 is not the one in {MANIFEST}")
    return files


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Within it no other process gets in here; the system lets go of the lock however this one ends (Windows has none).

    Its file is deleted at the end, and folders that were made for it and are still empty.
    ValueError if another process is in. Where the file system has no locks, a warning says so.
    """
    new, path = [each for each in (folder, *folder.parents) if not each.exists()], folder / LOCK
    with _locked(path) as file:
        try:
            yield
        finally:
            with suppress(OSError):
                at = path.stat()
                if os.path.samestat(at, os.fstat(file.fileno())) and not at.st_size:  # ours is empty
                    path.unlink()  # before the lock goes: whoever has the file open by then finds it deleted
                for each in new:
                    each.rmdir()


def _locked(path: Path) -> IO[bytes]:
    """A file, open and locked until it is closed; made where it is missing."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            file = path.open("ab")
            if sys.platform != "win32":
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ValueError(f"{path.parent}: another process is at work in it") from None
                except OSError as error:
                    if error.errno not in NO_LOCKS:
                        raise
                    words = f"its file system has no locks ({error.strerror}): let no other process write into it"
                    warnings.warn(f"{path.parent}: {words}", stacklevel=4)
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):  # else it was deleted just now, and would keep nobody out
                return file


def newest_intact(parent: Path, prefix: str) -> tuple[dict[str, bytes] | None, list[str]]:
    """The files of the last folder PREFIX-NUMBER that is intact, or None; and what was wrong with newer ones."""
    complaints: list[str] = []
    for folder in reversed(numbered(parent, prefix)):
        try:
            return read_folder(folder), complaints
        except DamagedError as error:
            complaints.append(str(error))
    return None, complaints


def numbered(parent: Path, prefix: str) -> list[Path]:
    """Folders PREFIX-NUMBER of a folder, by number."""
    found = [path for path in parent.glob(f"{prefix}-*") if path.name.removeprefix(f"{prefix}-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(f"{prefix}-")))


def keep_last(parent: Path, prefix: str, count: int) -> None:
    """Delete all folders PREFIX-NUMBER that `write_folder` wrote but the last ones."""
    for folder in list(filter(_is_ours, numbered(parent, prefix)))[:-count]:
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
