"""Files that are written whole or not at all, and what interrupted writes leave behind."""

import errno
import glob
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

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
    sweep(path.parent, path.name)
    own = path.with_name(f".{path.name}.realnvp-{os.getpid()}-{next(COUNT)}.tmp")
    IN_USE.add(own.name)
    try:
        yield own
    finally:
        IN_USE.discard(own.name)


def sweep(parent: Path, name: str | None = None) -> None:
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
