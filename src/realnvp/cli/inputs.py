"""What commands take and where they write: a flow, its data, a file to write."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from realnvp.cli.output import note
from realnvp.config import Kind
from realnvp.config.reading import Reading, is_colour

if TYPE_CHECKING:
    import torch

    from realnvp.data import Dataset
    from realnvp.flows.flow import Flow


def beside(run: str) -> Path:
    """Where to write what is made from a flow: its folder, or here for one that is not a path."""
    return Path(run) if Path(run).exists() else Path()


def make_way(flag: str, out: Path | None, *, read: Iterable[Path] = ()) -> None:
    """Make the folder of a file to write.

    read: what the command reads: files, and folders of images.

    ValueError: the file is a folder, a device or -, or is read; or its folder cannot be written to.
    """
    if out is None:
        return
    if str(out) == "-":
        raise ValueError(f"{flag}: - is no file; name one")
    if out.is_dir():
        raise ValueError(f"{flag}: {out} is a folder; name a file")
    if out.exists() and not out.is_file():
        raise ValueError(f"{flag}: {out} is no file that can be replaced")
    if out.exists() and any(_reads(path, out) for path in read):
        raise ValueError(f"{flag}: {out} is what this command reads; name another file")
    if out.parent.is_file():
        raise ValueError(f"{flag}: {out.parent} is a file, no folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise ValueError(f"{flag}: {out.parent} cannot be written to")


def _reads(path: Path, file: Path) -> bool:
    """Whether a command that is given a path, of a file or of a folder of images, reads a file."""
    from realnvp.data.folder import is_image

    if path.is_dir():
        return is_image(file.name) and path.resolve() in file.resolve().parents
    return path.exists() and path.samefile(file)


def load(
    run: str, device: str, *, which: Literal["best", "last"], threads: int | None = None
) -> "tuple[Flow, dict[str, Any]]":
    """The run's flow on the device, and its facts."""
    from realnvp.files.saved import load_model

    place = settle(device, threads)
    flow, facts = load_model(run, which)
    return flow.to(place), facts


def settle(device: str, threads: int | None) -> "torch.device":
    """Find the device, and make this process ready to compute there.

    Says so if other processes compute, too.
    """
    from realnvp.cli.threads import settle_threads
    from realnvp.tools.device import keep_freed_memory, pick_device

    place = pick_device(device)
    keep_freed_memory()
    if told := settle_threads(threads, place):
        note(f"realnvp: {told}")
    return place


def chosen_reading(background: str | None, colours: str | None, depth: int | None) -> Reading:
    """How image files become pixels, by --background, --colours and --depth."""
    if background and not is_colour(background):
        raise ValueError(f"--background: {background!r} is not white, black or #rrggbb")
    if depth not in (None, 8, 16):
        raise ValueError(f"--depth: must be 8 or 16, got {depth}")
    return Reading(background, colours, depth)


def of_table(flow: "Flow") -> bool:
    """Whether it is a flow of rows, not of images."""
    from realnvp.flows.flow import config_of

    return config_of(flow).kind is Kind.TABLE


def given_class(flow: "Flow", given: str | None) -> str | None:
    """The name of the class that was asked for. ValueError: the flow has no such class."""
    from realnvp.flows.given import Classes

    if given is not None:
        if not isinstance(flow.condition, Classes):
            raise ValueError("--given: this flow is not given classes (train --data.classes)")
        try:
            flow.condition.parse(given, 1)
        except ValueError as error:
            raise ValueError(f"--{error}") from None
    return given


def given_table(flow: "Flow", given: str | None) -> str | None:
    """The table of given columns that was asked for. ValueError: it is needed, or not taken."""
    from realnvp.flows.flow import config_of

    columns = config_of(flow).data.given
    if columns and given is None:
        raise ValueError(
            f"--given: name a table with the columns {', '.join(columns)}, which this flow is given"
        )
    if given is not None and not columns:
        raise ValueError("--given: this flow is not given columns (train table --data.given a,b)")
    return given


def own_data(flow: "Flow", run: str) -> "Dataset":
    """Open the run's own data and compare the test split's checksum.

    Warns if they have changed since the training.
    """
    from realnvp.data import splits_of_run
    from realnvp.files.run_dir import RunDir
    from realnvp.flows.flow import config_of

    splits = splits_of_run(Path(run), config_of(flow), verify=["test"])
    RunDir(run).warn_of_changed_data(splits.folder, splits.sha256)
    return splits
