"""A lock that keeps other processes out of a folder."""

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

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
