"""realnvp compress and realnvp decompress: pictures without loss, as small as bits/dim says."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from realnvp.cli.options import (
    Device,
    Json,
    Threads,
    Which,
    load,
    note,
    prepare_output,
    print_json,
    print_table,
    setup_device,
)
from realnvp.config.errors import count_of

if TYPE_CHECKING:
    from realnvp.codec.archive import Archive
    from realnvp.flows.flow import Flow

FlowOf = Annotated[
    str | None,
    tyro.conf.arg(
        name="flow",
        metavar="RUN",
        help="The flow that the file was written with, where it is not found by its name: a run "
        "directory, a saved flow, or an id on the Hub.",
    ),
]


@dataclass
class Compress:
    """Compress pictures without loss, with a flow that knows their kind, into one file.

    Every picture comes back to the last bit: each part of the file is decoded and compared before
    it is written. What is unlike the training is stored as WebP would, or raw.

    Example: realnvp compress photos-32 pictures/ --out pictures.rnvp

    Is a file intact? realnvp compress --check pictures.rnvp
    """

    run: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="RUN",
            help="A run directory, a saved flow's folder, photos-32 or another flow of the "
            "package, or an id on the Hub.",
        ),
    ] = ""
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")] = ()
    """Picture files of any size, or folders of them."""
    out: Path | None = None
    """The file to write; named after the first path, here, when not given."""
    check: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Decode this file and compare its checksums; write nothing."""
    flow: FlowOf = None
    which: Which = "best"
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        if self.check:
            if self.run or self.out:
                raise ValueError("--check: takes a file alone, and --flow RUN")
            return _unpack(self.check, None, self.flow, self.device, self.threads, json=self.json)
        if not self.run or not self.paths:
            raise ValueError("compress: name a run, then picture files or folders; or --check FILE")
        if self.flow:
            raise ValueError("--flow: is for --check; the flow to compress with is the first word")
        from realnvp.codec.files import compress_files, files_by_name
        from realnvp.codec.images import check_flow
        from realnvp.flows.flow import config_of

        flow, _ = load(self.run, self.device, threads=self.threads, which=self.which)
        check_flow(flow, self.run)
        files = files_by_name(self.paths, deep=config_of(flow).levels > 256)
        out = self.out or Path(f"{self.paths[0].resolve().stem}.rnvp")
        prepare_output("--out", out, read=files.values())
        made = compress_files(flow, self.run, files, out)
        found = {"bytes": made.bytes, "bits_per_dim": made.bits_per_dim(8 * made.bytes)}
        others = {
            name: {"bytes": size, "bits_per_dim": made.bits_per_dim(8 * size)}
            for name, size in made.others.items()
        }
        bound = made.bits_per_dim(made.bound)
        if self.json:
            print_json(
                {"out": str(out), "pictures": made.pictures, **found, "bound": bound}
                | {"codecs": others}
            )
            return 0
        print_table(
            ("", "bytes", "bits/dim"),
            [
                (str(out), f"{made.bytes:,}", f"{found['bits_per_dim']:.4f}"),
                ("the flow's bound", "", f"{bound:.4f}" if math.isfinite(bound) else "none"),
                *(
                    (NAMES[name], f"{other['bytes']:,}", f"{other['bits_per_dim']:.4f}")
                    for name, other in others.items()
                ),
            ],
        )
        return 0


NAMES = {"png": "PNG", "webp": "WebP, lossless", "jxl": "JPEG XL, lossless"}


@dataclass
class Decompress:
    """Write the pictures of a file of `realnvp compress` into a folder: pixels, names, folders.

    Example: realnvp decompress pictures.rnvp --out back/
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    out: Path | None = None
    """The folder; named after the file, here, when not given. No file in it is replaced."""
    flow: FlowOf = None
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        out = self.out or Path(self.file.stem)
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out: {out} is a file; name a folder")
        return _unpack(self.file, out, self.flow, self.device, self.threads, json=self.json)


def _unpack(
    file: Path,
    out: Path | None,
    run: str | None,
    device: str,
    threads: int | None,
    *,
    json: bool,
) -> int:
    """Write an archive's pictures, or only look at them; says which are lost."""
    from realnvp.codec.archive import Archive
    from realnvp.codec.files import decompress_files

    setup_device(device, threads)
    with file.open("rb") as opened:
        archive = Archive(opened, file)
        lost = decompress_files(archive, _flow_of(archive, run), out)
    count = archive.index.count
    if json:
        print_json({"file": str(file), "pictures": count, "lost": lost})
    else:
        where = f" in {out}" if out else " intact" if lost else ", intact"
        print(f"{file}: {count - len(lost):,} of {count_of(count, 'picture')}{where}")
    if lost:
        from realnvp.config.errors import listed

        names = [name.replace("\n", "\\n") for name in lost]
        note(f"realnvp: error: {file}: damaged; lost: {listed(names)}")
    return 1 if lost else 0


def _flow_of(archive: "Archive", run: str | None) -> "Flow":
    """The flow that the user names, else what has the name that the archive gives."""
    from realnvp.codec.archive import flow_digest
    from realnvp.codec.images import check_flow
    from realnvp.io.pretrained import load_model, pretrained

    named = run or archive.index.flow
    if not run and not (named in pretrained() or (named and Path(named).exists())):
        raise ValueError(f"{archive.name}: --flow: name its flow, which was called {named!r}")
    for which in ("best", "last"):
        flow, _ = load_model(named, which)
        check_flow(flow, named)
        if flow_digest(flow) == archive.flow_digest:
            break
    return flow
