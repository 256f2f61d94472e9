"""From published files to a prepared folder: what `realnvp prepare` does."""

import hashlib
import itertools
import json
import os
import re
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from realnvp.config.errors import ParameterError
from realnvp.config.fields import DecodeOptions
from realnvp.data.dataset import in_threads
from realnvp.data.images import Size
from realnvp.data.prepared import DESCRIPTION, open_splits, read_description, write_dataset
from realnvp.data.published import READERS, Prepared, PrepareRequest
from realnvp.data.sources import STATE, acquire_dir
from realnvp.io.files import LOCK, lock_folder
from realnvp.progress import progress

# What the publishers' pages, or torchvision's source, say.
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
    "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
}
# More loose files than this get a single checksum: of the lines that `sha256sum` prints for them.
LISTED = 32
BLOCK = 2**20


def convert(name: str, source: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Write the prepared folder `out`, or go on with it.

    Returns its dataset.json, and whether it was there already.

    settings: fields of `PrepareRequest`. The source is only read.
    ValueError names the file or flag. Warns of other checksums than the publisher's.
    """
    source, out = source.expanduser(), out.expanduser()
    if source.is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
        raise ParameterError("out", f"{out} is inside the source, which is only read")
    for field in DecodeOptions._fields:  # recorded where it is chosen
        if settings.get(field) is None:
            settings.pop(field, None)
    recorded = json.loads(json.dumps({"name": name, "source": source.absolute().name} | settings))
    with ExitStack() as stack, warnings.catch_warnings():
        # A complete folder needs no lock: many may read it, also where nobody may write.
        if not (out / DESCRIPTION).exists():
            stack.enter_context(lock_folder(out))
        if (out / DESCRIPTION).exists():
            return _already(out, source, recorded) | {"already": True}
        warnings.filterwarnings("error", message=".*decompression bomb")
        found = READERS[name](PrepareRequest(name, source, stack, out, **settings))
        inputs = _inputs(found, source if source.is_dir() else source.parent)
        acquire_dir(out, recorded | {"inputs": inputs})
        about = write_dataset(
            found.dataset, recorded | {"inputs": inputs, "done": found.done}, out, keep=True
        )
        (out / STATE).unlink(missing_ok=True)
    return about | {"already": False}


def parse_size(text: str | None, name: str) -> Size | None:
    """ "64" -> (64,), "48x64" -> (48, 64)."""
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})?", text):
        raise ParameterError(name, f"{text!r} is no SIDE or HEIGHTxWIDTH, such as 64 or 48x64")
    return tuple(map(int, text.split("x")))


def _already(out: Path, source: Path, recorded: dict[str, Any]) -> dict[str, Any]:
    """The description of a complete folder; ValueError: prepared otherwise, or damaged."""
    about = read_description(out)
    for field, value in {**dict.fromkeys(DecodeOptions._fields), **recorded}.items():
        if about.get(field) != value or (field in recorded and field not in about):
            raise ValueError(
                f"{out}: was prepared with {field} {about.get(field)!r}, not {value!r}; "
                "name another --out"
            )
    base = source if source.is_dir() else source.parent
    for name, facts in about.get("inputs", {}).items():
        if (base / name).is_file() and (base / name).stat().st_size != facts["bytes"]:
            raise ValueError(
                f"{base / name}: has changed since {out} was prepared; name another --out"
            )
    open_splits(out)
    for left in (STATE, LOCK):  # a preparation was killed just before it did this
        (out / left).unlink(missing_ok=True)
    return about


def _inputs(found: Prepared, base: Path) -> dict[str, Any]:
    """{name: bytes, sha256, ...} of all files that are read; names are relative to the base."""
    by_place: dict[Path, list[Path]] = {}
    for files, name in found.inputs:
        by_place.setdefault(files.path, []).append(files.path / name)
    # An archive counts as a single file.
    by_place = {place: inner if place.is_dir() else [place] for place, inner in by_place.items()}
    inputs: dict[str, Any] = {}
    done = itertools.count(1)
    with progress("checksum", sum(map(len, by_place.values()))) as report:
        for place, paths in by_place.items():
            facts = {}
            for path, fact in zip(paths, in_threads(_facts, paths), strict=True):
                facts[path] = fact
                report(next(done), "files")
            if len(paths) <= LISTED:
                inputs |= {_relative(path, base): fact for path, fact in facts.items()}
            else:
                inputs[f"{_relative(place, base)}/"] = _together(place, facts)
    for name, facts_of in inputs.items():
        if facts_of.get("as_published") is False:
            warnings.warn(
                f"{name}: its MD5 is not the published {MD5[Path(name).name]}; "
                "it is used all the same",
                stacklevel=3,
            )
    return inputs


def _facts(path: Path) -> dict[str, Any]:
    """Size and checksums of a file."""
    expected = MD5.get(path.name)
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            size += len(block)
            sha256.update(block)
            if expected:
                md5.update(block)
    facts: dict[str, Any] = {"bytes": size, "sha256": sha256.hexdigest()}
    return facts | (
        {"md5": md5.hexdigest(), "as_published": md5.hexdigest() == expected} if expected else {}
    )


def _together(place: Path, facts: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """One entry for many files.

    Its `sha256` is of the lines "CHECKSUM  PATH", as sha256sum prints them in the folder.
    """
    lines = hashlib.sha256()
    for path, fact in facts.items():
        lines.update(
            f"{fact['sha256']}  {path.relative_to(place).as_posix()}\n".encode(
                errors="surrogateescape"
            )
        )
    return {
        "files": len(facts),
        "bytes": sum(fact["bytes"] for fact in facts.values()),
        "sha256": lines.hexdigest(),
    }


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
