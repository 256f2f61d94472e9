"""realnvp compress and realnvp decompress: pictures without loss, as small as bits/dim says."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from realnvp.cli import options

if TYPE_CHECKING:
    from realnvp.codec.archive import Archive
    from realnvp.flows.flow import Flow


@dataclass(kw_only=True)
class Compress(options.FlowCommand):
    """Compress pictures losslessly into one file, with a flow that was trained on similar ones.

    Pixels come back to the last bit: each part of the file is decoded and compared before it is
    written. Pictures unlike the training are stored as WebP or raw.

    Example: realnvp compress photos-32 pictures/ --out pictures.rnvp
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")]
    """Picture files of any size, or folders of them."""
    out: Path | None = None
    """The file to write; default: the name of the first path, here."""

    def __call__(self) -> int:
        from realnvp.codec.images import check_flow, compress_files, files_by_name
        from realnvp.flows.flow import config_of

        if not self.paths:
            raise ValueError("PATH: name picture files or folders")
        flow, _ = self.load()
        check_flow(flow, self.run)
        files = files_by_name(self.paths, deep=config_of(flow).levels > 256)
        out = self.out or Path(f"{self.paths[0].resolve().stem}.rnvp")
        options.prepare_output("--out", out, read=files.values())
        index, bound = compress_files(flow, self.run, files, out)
        size = out.stat().st_size
        rates = {"bits_per_dim": 8 * size / index.numbers, "bound": bound / index.numbers}
        text = "{}: {:,} pictures, {:,} bytes; {:.4f} bits/dim, the flow's bound {:.4f}"
        values = {"out": str(out), "pictures": index.count, "bytes": size, **rates}
        self.show(values, text.format(out, index.count, size, *rates.values()))
        return 0


@dataclass(kw_only=True)
class Decompress(options.Command):
    """Write the pictures of a file of `realnvp compress` into a folder: pixels, names, folders.

    Example: realnvp decompress pictures.rnvp --out back/
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    out: Path | None = None
    """The folder; default: the name of the file, here. No file in it is replaced."""
    check: options.Flag = False
    """Decode all pictures and compare their checksums; write nothing."""
    flow: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """The flow that compressed the file, unless its name is in the file: a run, a saved flow, or a
    Hub id."""
    device: options.Device = "auto"
    threads: options.Threads = None

    def __call__(self) -> int:
        from realnvp.codec.archive import Archive
        from realnvp.codec.images import decompress_files

        out = None if self.check else self.out or Path(self.file.stem)
        if out and out.exists() and not out.is_dir():
            raise ValueError(f"--out: {out} is a file; name a folder")
        options.setup_device(self.device, self.threads)
        with self.file.open("rb") as opened:
            archive = Archive(opened, self.file)
            lost = decompress_files(archive, self._flow_of(archive), out)
        count = archive.index.count
        text = f"{self.file}: {count - len(lost):,} of {count:,} pictures intact"
        self.show({"file": str(self.file), "pictures": count, "lost": lost}, text)
        if lost:
            shown = "; ".join(name.replace("\n", "\\n") for name in lost[:20])
            more = f"; and {len(lost) - 20} more" if len(lost) > 20 else ""
            options.note(f"realnvp: error: {self.file}: damaged; lost: {shown}{more}")
        return 1 if lost else 0

    def _flow_of(self, archive: "Archive") -> "Flow":
        """The flow of --flow, else of the name in the archive."""
        from realnvp.codec.archive import flow_digest
        from realnvp.codec.images import check_flow
        from realnvp.io.pretrained import load_model, pretrained

        name = self.flow or archive.index.flow
        if not self.flow and not (name in pretrained() or (name and Path(name).exists())):
            raise ValueError(f"{archive.name}: --flow: name its flow, which was called {name!r}")
        for which in ("best", "last"):
            flow, _ = load_model(name, which)
            check_flow(flow, name)
            if flow_digest(flow) == archive.flow_digest:
                break
        return flow
