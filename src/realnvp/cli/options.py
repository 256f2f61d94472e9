"""Threads of torch on a CPU that others use, too."""

import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args

import torch
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from realnvp.cli.arguments import settled
from realnvp.config import Kind
from realnvp.config.fields import DecodeOptions, is_colour

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Device = Annotated[
    str,
    tyro.conf.arg(
        metavar="DEVICE",
        help="cpu, cuda, cuda:1 ..., mps (untried), or auto: cuda where there is a GPU.",
    ),
]
Threads = Annotated[
    int | None,
    tyro.conf.arg(
        metavar="N",
        help="Of torch on a CPU; when not given, one for each core that no other process is "
        "busy on.",
    ),
]
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print one JSON object.")]
Which = Annotated[
    Literal["best", "last"],
    tyro.conf.arg(help="The best model by validation bits/dim, or that of the last evaluation."),
]
Fast = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(
        help="Several times as fast, in low precision; how far it is off is measured and printed."
    ),
]
RunDir = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="RUN",
        help="A run directory, a saved flow's folder, photos-32 or another "
        "flow of the package, or an id on the Hub.",
    ),
]
Background = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="COLOUR",
        help="Put transparent pixels onto white, black or #rrggbb; when not given, such files are "
        "refused.",
    ),
]
Colours = Annotated[
    Literal["grey", "rgb"] | None,
    tyro.conf.arg(help="Turn all pictures grey, or all into RGB; they must be alike otherwise."),
]
Depth = Annotated[
    int | None,
    tyro.conf.arg(
        metavar="BITS",
        help="Bits of a channel: 8 keeps the upper byte of 16, 16 stretches 8; they are kept when "
        "not given.",
    ),
]
Command = TypeVar("Command", bound=Callable[[], int])


def parse(
    command: type[Command], argv: Sequence[str], *, prog: str, default: Command | None = None
) -> Command:
    """The command with the values of its flags; ValueError, in one line, names a wrong flag."""
    parsed = tyro.cli(
        command,
        args=settled(command, argv, prog=prog),
        prog=prog,
        default=default,
        registry=in_words(),
    )
    assert parsed is not None
    return parsed


def in_words() -> ConstructorRegistry:
    """tyro's own types; in `--help`, what may be None is `INT or None`."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_or_none)
    return registry


def _or_none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
    if info.type_origin not in (Union, UnionType) or len(kinds) != 1:
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    assert isinstance(spec, PrimitiveConstructorSpec)
    name = re.sub(r"^\W*(\w+) .*", r"\1...", spec.metavar)  # [INT [INT ...]]
    return PrimitiveConstructorSpec(
        nargs=spec.nargs,
        metavar=f"{name} or None",
        instance_from_str=lambda words: (
            None if words == ["None"] else spec.instance_from_str(words)
        ),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: (
            ["None"] if value is None else spec.str_from_instance(value)
        ),
    )


if TYPE_CHECKING:
    import torch

    from realnvp.data import Dataset
    from realnvp.flows.flow import Flow


def beside(run: str) -> Path:
    """Where to write what is made from a flow: its folder, or here for one that is not a path."""
    return Path(run) if Path(run).exists() else Path()


def prepare_output(flag: str, out: Path | None, *, read: Iterable[Path] = ()) -> None:
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
    from realnvp.io.pretrained import load_model

    place = setup_device(device, threads)
    flow, facts = load_model(run, which)
    return flow.to(place), facts


def setup_device(device: str, threads: int | None) -> "torch.device":
    """Find the device, and make this process ready to compute there.

    Says so if other processes compute, too.
    """
    from realnvp.device import keep_freed_memory, pick_device

    place = pick_device(device)
    keep_freed_memory()
    if told := settle_threads(threads, place):
        note(f"realnvp: {told}")
    return place


def chosen_reading(
    background: str | None, color_mode: str | None, bit_depth: int | None
) -> DecodeOptions:
    """How image files become pixels, by --background, --color-mode and --bit-depth."""
    if background and not is_colour(background):
        raise ValueError(f"--background: {background!r} is not white, black or #rrggbb")
    if bit_depth not in (None, 8, 16):
        raise ValueError(f"--bit-depth: must be 8 or 16, got {bit_depth}")
    return DecodeOptions(background, color_mode, bit_depth)


def of_table(flow: "Flow") -> bool:
    """Whether it is a flow of rows, not of images."""
    from realnvp.flows.flow import config_of

    return config_of(flow).kind is Kind.TABLE


def given_class(flow: "Flow", context: str | None) -> str | None:
    """The name of the class that was asked for. ValueError: the flow has no such class."""
    from realnvp.flows.context import Classes

    if context is not None:
        if not isinstance(flow.condition, Classes):
            raise ValueError("--given: this flow is not given classes (train --data.classes)")
        try:
            flow.condition.parse(context, 1)
        except ValueError as error:
            raise ValueError(f"--{error}") from None
    return context


def given_table(flow: "Flow", context: str | None) -> str | None:
    """The table of given columns that was asked for. ValueError: it is needed, or not taken."""
    from realnvp.flows.flow import config_of

    columns = config_of(flow).data.context_columns
    if columns and context is None:
        raise ValueError(
            f"--given: name a table with the columns {', '.join(columns)}, which this flow is given"
        )
    if context is not None and not columns:
        raise ValueError(
            "--given: this flow is not given columns (train table --data.context_columns a,b)"
        )
    return context


def own_data(flow: "Flow", run: str) -> "Dataset":
    """Open the run's own data and compare the test split's checksum.

    Warns if they have changed since the training.
    """
    from realnvp.data import splits_of_run
    from realnvp.flows.flow import config_of
    from realnvp.io.run_dir import RunDir

    splits = splits_of_run(Path(run), config_of(flow), verify=["test"])
    RunDir(run).warn_of_changed_data(splits.folder, splits.sha256)
    return splits


def visible(text: str) -> str:
    """Escape what a terminal would not show but obey, such as \\x1b.

    File names and other people's folders can hold such characters.
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def say(text: str) -> None:
    """Lines for people on stdout."""
    print(visible(text))


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on stdout; numbers that are not finite become null, since JSON has none."""
    print(json.dumps(_finite(values), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def print_csv(text: str) -> None:
    """Print the text of a CSV file.

    File names are printed as they are, but for a terminal with escapes, as `ls` does.
    """
    if sys.stdout.isatty():
        print(visible(text), end="")
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # It is strict about what is not UTF-8, which a name may hold.
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
    else:
        print(text, end="")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; nothing is cut off, whatever the terminal's width.

    Elsewhere than on a terminal lines end where their text ends.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD, show_header=any(columns))
    for row in rows:
        table.add_row(*map(visible, row))
    on_terminal = sys.stdout.isatty()
    console = Console(width=None if on_terminal else 400, highlight=False, markup=False)
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        print(line if on_terminal else line.rstrip())


def thousands(number: int) -> str:
    """19_609_545 -> '19.61 M'; small numbers as they are."""
    return f"{number / 1e6:.2f} M" if number >= 10_000 else str(number)


def note(text: str) -> None:
    """A line for people beside the result, on stderr."""
    print(visible(text), file=sys.stderr)


MOST = 1024  # more than machines have; far more end torch with a segmentation fault
WATCHED = 0.15  # seconds; systems count a core's idle time in hundredths


class Cores(NamedTuple):
    """The cores that this process may use."""

    usable: int
    busy: int
    """How many cores the other processes keep busy, in effect."""


def settle_threads(chosen: int | None, device: torch.device) -> str:
    """Give torch the chosen threads, else as many as there are free cores.

    Returns what there is to tell of it, or ''. ValueError if --threads is out of range.

    torch's threads wait for each other by spinning, so one that shares its core with another
    process holds up all of them: beside one busy process a training is ten times slower with
    two threads on two cores than with one (docs/performance.md). OMP_NUM_THREADS and the
    launcher of several processes count as choices.
    """
    if chosen is not None:
        if chosen < 1:
            raise ValueError(f"--threads: must be at least 1, got {chosen}")
        if chosen > MOST:
            raise ValueError(f"--threads: must be at most {MOST}, got {chosen}")
        torch.set_num_threads(chosen)
        return ""
    decided = "OMP_NUM_THREADS" in os.environ or int(os.environ.get("WORLD_SIZE", 1)) > 1
    threads = torch.get_num_threads()
    if decided or threads == 1 or device.type != "cpu" or (cores := watched_cores()) is None:
        return ""
    free = max(1, cores.usable - cores.busy)
    if threads <= free:
        return ""
    torch.set_num_threads(free)
    return (
        f"{cores.busy} of {cores.usable} cores {'is' if cores.busy == 1 else 'are'} busy: "
        f"using {free} thread{'s' * (free > 1)} (--threads N to choose)"
    )


def watched_cores() -> Cores | None:
    """Watch for a moment which cores other processes use.

    Cores that this process and its children use count as free. None without psutil.
    """
    try:
        import psutil
    except ModuleNotFoundError:  # it comes with the extra realnvp[train]
        return None
    me = psutil.Process()
    mine = me.cpu_affinity() if hasattr(me, "cpu_affinity") else range(psutil.cpu_count() or 1)

    def unused() -> float:
        """Seconds in which these cores were idle, or worked for this process or its children."""
        cores = psutil.cpu_times(percpu=True)
        idle = sum(cores[i].idle + getattr(cores[i], "iowait", 0.0) for i in mine)
        own = 0.0
        for process in (me, *me.children(recursive=True)):
            try:
                times = process.cpu_times()
                own += times.user + times.system
            except psutil.Error:  # it has just ended
                continue
        return float(idle + own)

    began, before = time.monotonic(), unused()
    time.sleep(WATCHED)
    free = (unused() - before) / (time.monotonic() - began)
    return Cores(len(mine), min(max(round(len(mine) - free), 0), len(mine)))
