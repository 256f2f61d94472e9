"""Folders that are written whole or not at all, and that tell when a bit of them has changed."""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from realnvp.files.atomic import os_errors_name, temporary, to_disk
from realnvp.files.records import DamagedError, damaged_if_invalid, parse_record
from realnvp.tools.lock import Lock

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
