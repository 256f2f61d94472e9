"""Flags that several commands have, and how flags are read."""

import re
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from realnvp.cli.arguments import settled

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
        help="A run directory, a saved flow's folder, photos-small or another "
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
