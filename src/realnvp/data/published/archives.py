"""The files of a folder, zip or tar, read in place: nothing is extracted to an archive's paths."""

import bz2
import gzip
import io
import lzma
import mmap
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from realnvp.config.errors import reason
from realnvp.config.fields import AS_FOUND, DecodeOptions
from realnvp.data.dataset import Pixels
from realnvp.data.folder import hidden, is_hidden, walk
from realnvp.data.images import decode_image, why_no_file

Place = TypeVar("Place")
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Images and arrays hardly shrink: an archive that unpacks to more times its size is no data set.
MAX_RATIO = 100
ALWAYS_ALLOWED = 2**26


@dataclass(frozen=True)
class Files:
    """The regular files of a folder or an archive; several threads may open them at once."""

    path: Path
    """The folder, or the archive."""
    sizes: dict[str, int]
    """In bytes, by relative path, sorted."""
    opener: Callable[[str], IO[bytes]]
    hidden: Sequence[str] = ()
    """Files that are passed over since they are hidden, and linked folders."""

    def label(self, name: str) -> str:
        """What a message calls the file."""
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes:
        """The content of a file; ValueError if it is damaged."""
        try:
            with self.opener(name) as file:
                return file.read(self.sizes[name] + 1)
        except Exception as error:  # a damaged archive raises nearly anything
            raise ValueError(f"{self.label(name)}: {reason(error)}") from None

    def image(self, name: str, reading: DecodeOptions = AS_FOUND) -> Pixels:
        """The pixels of an image file, (H, W, C)."""
        return decode_image(io.BytesIO(self.read(name)), self.label(name), reading)


def open_files(path: Path, stack: ExitStack, scratch: Path) -> Files:
    """The files of a folder, zip or tar, open until the stack is closed.

    A compressed tar is unpacked to an unnamed file in `scratch`.

    ValueError: the archive is damaged or a bomb, or a member is a link, a device or leads out.
    """
    if path.is_dir():
        sizes = {
            name: (path / name).stat().st_size if (path / name).is_file() else 0
            for name in walk(path)
        }
        return Files(path, sizes, lambda name: _regular(path / name).open("rb"), hidden(path))
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        return _zip(path, stack) if magic[:2] == b"PK" else _tar(path, magic, stack, scratch)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        OSError,
        lzma.LZMAError,
        NotImplementedError,
    ) as error:
        raise ValueError(f"{path}: {reason(error)}") from None


def _zip(path: Path, stack: ExitStack) -> Files:
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = []
    for info in archive.infolist():
        if not info.is_dir():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise ValueError(f"{path}: member {info.filename!r} is a link or a device; refused")
            members.append((info.filename, info, info.file_size))
    kept, passed = _checked(path, members, path.stat().st_size)
    return Files(
        path,
        {name: info.file_size for name, info in kept.items()},
        lambda name: archive.open(kept[name]),
        passed,
    )


def _tar(path: Path, magic: bytes, stack: ExitStack, scratch: Path) -> Files:
    file: IO[bytes] = stack.enter_context(path.open("rb"))
    for start, unpacker in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma)):
        if magic.startswith(start):
            file = _unpacked(path, stack.enter_context(unpacker.open(file)), stack, scratch)
    members, end = [], 0
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            # A million members take a gigabyte.
            tar.members.clear()  # type: ignore[attr-defined]  # types lack it
            # A negative size would make tarfile read one member for ever (CVE-2025-8194). Later
            # Pythons end the list there.
            if member.size < 0 or not (
                member.isdir() or (member.isreg() and not member.issparse())
            ):
                raise ValueError(
                    f"{path}: member {member.name!r} is a link, a device, "
                    "sparse or of negative size; refused"
                )
            if member.isreg():
                members.append((member.name, (member.offset_data, member.size), member.size))
            end = tar.offset
        # By now tar.offset may lie past a header that tarfile passed over in silence.
        file.seek(end)
        if any(file.read(512).ljust(512, b"?")):
            raise ValueError(
                f"{path}: truncated or damaged: no member and no mark of the end at byte {end}; "
                "refused"
            )
    view = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    kept, passed = _checked(path, members, path.stat().st_size)
    return Files(
        path,
        {name: size for name, (_, size) in kept.items()},
        lambda name: io.BytesIO(view[kept[name][0] : kept[name][0] + kept[name][1]]),
        passed,
    )


def _unpacked(path: Path, packed: IO[bytes], stack: ExitStack, scratch: Path) -> IO[bytes]:
    """A file without a name that holds what a compressed file holds."""
    unnamed = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  # the stack closes it
    file: IO[bytes] = stack.enter_context(unnamed)
    total = 0
    while block := packed.read(2**20):
        total += len(block)
        check_bomb(path, total, path.stat().st_size)
        file.write(block)
    file.flush()
    file.seek(0)
    return file


def check_bomb(path: Path | str, unpacked: int, packed: int) -> None:
    """ValueError if only a decompression bomb can unpack to so many times its packed bytes."""
    if unpacked > max(ALWAYS_ALLOWED, MAX_RATIO * packed):
        raise ValueError(
            f"{path}: {packed} bytes unpack to {unpacked} or more: a decompression bomb, refused"
        )


def _checked(
    path: Path, members: Iterable[tuple[str, Place, int]], packed: int
) -> tuple[dict[str, Place], list[str]]:
    """Where each file lies, by its clean name, sorted; and the names of hidden ones.

    ValueError for a path that leads out, a name met twice, a bomb.
    """
    kept: dict[str, Place] = {}
    passed: list[str] = []
    total = 0
    for name, place, size in members:
        total += size
        check_bomb(path, total, packed)
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0] == "/" or re.match("[A-Za-z]:", name):
            raise ValueError(
                f"{path}: the path of member {name!r} leads out of the archive; refused"
            )
        if is_hidden(clean := "/".join(parts)) or "__MACOSX" in parts:
            passed.append(clean)
        elif clean in kept:
            raise ValueError(f"{path}: holds {clean!r} twice")
        else:
            kept[clean] = place
    return dict(sorted(kept.items())), sorted(passed)


def _regular(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(why_no_file(path))
    return path
