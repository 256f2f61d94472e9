"""What users can rely on of a version, as one readable file: tests/data/surface-VERSION.json.

`python -m tests.surface` writes the file of the present version anew. A version in work does so
for what it adds; the files of released versions stay as they are. tests/test_surface.py compares
the present code with each of them, by `lost`.

    python        public names: signatures without types, bases, members, fields with defaults
    commands      flags of each command: [what follows it, default]; what presets change in them
    json          keys, and kinds of values, of what commands print with --json and of files
    files         names in a run directory, a saved flow, prepared data; columns of CSV files
    exit_codes    of commands
"""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints
from unittest import mock

import numpy as np
from PIL import Image

import realnvp
from realnvp.cli.main import COMMANDS, run
from realnvp.config import PRESETS
from tests.earlier import unpack

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
DOORS = ("realnvp", "realnvp.bijections", "realnvp.sklearn", "realnvp.hub", "realnvp.export")


def surface() -> dict[str, Any]:
    """All of it, measured in a folder that is deleted again."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        keys, files = _results(Path(folder).resolve())
        return {
            "python": {name: describe(resolve(name)) for name in public_names()},
            "commands": commands(),
            "json": keys,
            "files": files,
            "exit_codes": exit_codes(Path(folder)),
        }


# Python


def public_names() -> list[str]:
    """Dotted names: of the doors, of the reference, of what a page or an example imports, of
    earlier versions.
    """
    names = {f"realnvp.{name}" for name in realnvp.__all__}
    names |= {
        f"{door}.{name}" for door in DOORS[1:] for name in _own(importlib.import_module(door))
    }
    for path in [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").glob("*.py"),
    ]:
        text = path.read_text()
        names |= set(re.findall(r"^\.\. auto\w+:: (realnvp[\w.]+)", text, re.M))
        for module, imported in re.findall(
            r"^(?:>>> )?from (realnvp[\w.]*) import ([\w, ]+)", text, re.M
        ):
            names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
    for path in DATA.glob("surface-*.json"):
        names |= {name for name in json.loads(path.read_text())["python"] if _is_there(name)}
    return sorted(names)


def _is_there(name: str) -> bool:
    try:
        resolve(name)
    except (ImportError, AttributeError):
        return False
    return True


def _own(module: ModuleType) -> list[str]:
    """The names of a door: `__all__`, else what is written in it and has a docstring."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return [
        name
        for name, value in public.items()
        if getattr(value, "__module__", "") == module.__name__
    ]


def resolve(name: str) -> Any:
    """The object of a dotted name, as an earlier version had it."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def describe(thing: Any) -> Any:
    """A signature as text; of a class also its bases and members; of other values the type."""
    if not inspect.isclass(thing):
        return signature(thing) if callable(thing) else type(thing).__name__
    about: dict[str, Any] = {
        "bases": [base.__name__ for base in thing.__mro__[1:] if _is_known(base)]
    }
    members = _members(thing)
    if dataclasses.is_dataclass(thing):
        about["fields"] = {field.name: _default_of(field) for field in dataclasses.fields(thing)}
        members = {name: each for name, each in members.items() if name not in about["fields"]}
    elif not inspect.isabstract(thing):
        with contextlib.suppress(ValueError):  # an exception that is called as all are
            about["call"] = signature(thing)
    return about | {"members": dict(sorted(members.items()))}


def signature(function: Any) -> str:
    """Names, order, kinds and defaults. No types: they name modules, and mypy checks them."""
    found = inspect.signature(function)
    plain = [
        parameter.replace(annotation=parameter.empty) for parameter in found.parameters.values()
    ]
    plain = [
        each if each.default is each.empty else each.replace(default=_As(text_of(each.default)))
        for each in plain
    ]
    return str(inspect.Signature(plain))


class _As(str):
    """A text whose repr is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def text_of(value: Any) -> str:
    """A default as Python writes it; of objects the type alone."""
    text = repr(value)
    with contextlib.suppress(SyntaxError, ValueError):
        ast.literal_eval(text)
        return text
    return f"{type(value).__name__}()"


def _default_of(field: "dataclasses.Field[Any]") -> str | None:
    """None: required."""
    if field.default_factory is not dataclasses.MISSING:
        return text_of(field.default_factory())
    return None if field.default is dataclasses.MISSING else text_of(field.default)


def _is_known(base: type) -> bool:
    return base is not object and base.__module__.split(".")[0] in ("realnvp", "builtins", "torch")


def _members(cls: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in (base for base in cls.__mro__ if base.__module__.startswith("realnvp")):
        for name in {**vars(base), **inspect.get_annotations(base)}:
            if name.startswith("_") or name in found:
                continue
            value = getattr(cls, name, None)
            found[name] = signature(value) if inspect.isroutine(value) else "attribute"
    return found


# The command line


def said(*argv: str, code: int = 0) -> str:
    """What a command prints on stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert _code(*argv) == code, argv
    return out.getvalue()


def _code(*argv: str) -> int:
    try:
        return run([*argv])
    except SystemExit as stopped:
        return int(stopped.code or 0)


Flags = dict[str, list[str]]


def commands() -> dict[str, Any]:
    """The flags of each command, and those of train for each preset as it differs from images."""
    found: dict[str, Any] = {name: flags(name) for name in COMMANDS if name != "train"}
    every = {preset: flags("train", preset) for preset in PRESETS}
    found["train"] = every["images"]
    own = {preset: _differing(every["images"], mine) for preset, mine in every.items()}
    found |= {"train of presets": own, "usage": re.findall(r"^  (\w+) ", said("--help"), re.M)}
    sets = get_args(get_type_hints(COMMANDS["prepare"], include_extras=False)["set"])
    return found | {"sets of prepare": [*sets]}


def _differing(usual: Flags, mine: Flags) -> dict[str, str]:
    assert mine.keys() == usual.keys()
    return {flag: default for flag, (_, default) in mine.items() if default != usual[flag][1]}


def flags(*command: str) -> Flags:
    """{flag or positional argument: [metavar, default]}, read from --help of any tyro from 1.0 on."""
    with mock.patch.dict(os.environ, COLUMNS="100", NO_COLOR="1", TERM="dumb"):
        text = said(*command, "--help")
    found: Flags = {}
    for words in _entries(text):
        head, _, rest = words.partition("  ")
        names, metavar = _head(head)
        default = re.findall(
            r"\(default: (.*?)\)$|\((required|repeatable)\)", " ".join(rest.split())
        )
        usual = (
            "" if names.startswith("-") else "required"
        )  # tyro's versions say different things of "PATH..."
        found[names] = [metavar, next(filter(None, default[-1]), usual) if default else usual]
    found.pop("-h, --help", None)
    return found


def _entries(text: str) -> list[str]:
    """Each argument with its help, as one text: further lines of it are indented more."""
    entries: list[str] = []
    for line in text.splitlines():
        if line[:1] not in (" ", "│"):
            continue
        words = line[2:].rstrip(" │")  # a box without Unicode has blanks for its sides
        if words.startswith(" ") and entries:
            entries[-1] += "  " + words.strip()
        else:
            entries.append(words)
    return [entry for entry in entries if re.match(r"--?\w|[A-Z.]+(  |$)", entry)]


def _head(head: str) -> tuple[str, str]:
    """'-n INT, --n INT' -> '-n, --n', 'INT'."""
    parts = [part.split(" ", 1) for part in re.split(r", (?=-)", head)]
    metavar = parts[0][1] if len(parts[0]) > 1 else ""
    return ", ".join(part[0] for part in parts), metavar.replace("{None}", "None")


def exit_codes(folder: Path) -> dict[str, int]:
    """Of commands that go well, of bad input, of a damaged run; and of the ends of a training."""
    damaged = unpack("0.1.0", folder / "of-old") / "table"
    weights = next(damaged.glob("model/best-*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    asked = [
        ("",),
        ("--help",),
        ("--version",),
        ("evaluate", "--help"),
        ("train", "digits", "--print-config"),
        ("completion", "bash"),
        ("no-command",),
        ("evaluate", "nowhere"),
        ("evaluate", "digits-small", "--no-flag"),
        ("train", "no-preset"),
        ("train", "digits", "--train.lr", "-1"),
        ("info", "of-old/table"),
        ("evaluate", "of-old/table"),
    ]
    found: dict[str, int] = {}
    for argv in asked:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found[" ".join(["realnvp", *argv]).strip()] = _code(*filter(None, argv))
    stopped, failed = (
        resolve(f"realnvp.training.train.{name}") for name in ("TrainingStopped", "TrainingFailed")
    )
    ends = {
        "Ctrl-C": stopped(2, 0),
        "SIGTERM": stopped(15, 0),
        "numbers that are not finite": failed(""),
    }
    return found | {f"a training, after {end}": error.exit_code for end, error in ends.items()}


# JSON and files


_TINY = (
    "--model.width 2 --train.max-steps 2 --train.batch-size 8 --train.moment-batches 2 "
    "--train.log-every 1 --train.eval-images 8 --device cpu"
)


def _results(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run all commands on tiny runs of the present code: keys of their JSON, names of files."""
    unpack("0.1.0", folder / "given")
    Path("given/rows.csv").write_text(
        "a,b,c\n" + "".join(f"{i},{i * i % 7},{-i % 3}\n" for i in range(30))
    )
    Path("pictures").mkdir()
    for i, picture in enumerate(np.random.default_rng(0).integers(0, 17, (12, 8, 8), np.uint8)):
        Image.fromarray(picture).save(f"pictures/{i}.png")
    of_images = f"digits --data.flip --model.num-blocks 1 {_TINY}"
    of_rows = (
        f"table --data.source given/rows.csv --model.num-couplings 2 --train.tracker none {_TINY}"
    )
    asked = {
        "train": f"train {of_images} --run-dir run --json",
        "train, of a table": f"train {of_rows} --run-dir rows --json",
        "train --dry-run": f"train {of_images} --dry-run --json",
        "train --print-config": f"train {of_images} --print-config",
        "prepare images": "prepare images --source pictures --out prepared --json",
        "evaluate": "evaluate run --views --codecs --json --device cpu",
        "evaluate, of a table": "evaluate rows --json --device cpu",
        "sample": "sample run -n 2 --json --device cpu",
        "sample --fast": "sample given/modern -n 2 --fast --json --device cpu",
        "sample, of a table": "sample rows -n 2 --json --device cpu",
        "score": "score run pictures/0.png --out run/scores.csv --json --device cpu",
        "score --fast": "score run pictures/0.png --fast --json --device cpu",
        "score, of a table": "score rows given/rows.csv --out rows/scores.csv --json --device cpu",
        "check": "check given/table --json --device cpu",
        "figures": "figures rows --only curves --json --device cpu",
        "report": "report rows --json --device cpu",
        "table": "table run --json",
        "info": "info run --json",
        "info, of a table": "info rows --json",
        "share": "share run shared --json",
        "info, of a saved flow": "info shared --json",
        "export": "export run --onnx log_prob.onnx --json",
        "presets": "presets --json",
    }
    with mock.patch(
        "realnvp.export.export_onnx", lambda flow, path, **how: path.write_bytes(b"")
    ):  # half a minute
        keys = {name: _keys(said(*words.split())) for name, words in asked.items()}
    of = {
        "a run": "run",
        "a run of a table": "rows",
        "a saved flow": "shared",
        "prepared data": "prepared",
    }
    roots = {name: Path(folder) for name, folder in of.items()}
    files = {
        name: sorted({_named(path, root) for path in root.rglob("*") if path.is_file()})
        for name, root in roots.items()
    }
    for name, root in roots.items():
        for path in sorted(root.rglob("*.json*")):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found = {key: kind for line in lines for key, kind in _keys(line).items()}
            if path.name == "config.json" and _is_configuration(json.loads(path.read_text())):
                found = {"": "configuration"}
            keys[f"{_named(path, root)} of {name}"] = found
    for path in (Path("run/scores.csv"), Path("rows/scores.csv"), Path("rows/samples.csv")):
        files[f"columns of {path}"] = path.read_text().splitlines()[0].split(",")
    return keys, files


def _named(path: Path, root: Path) -> str:
    """Its name in the folder, with N for steps, and without TensorBoard's machine and time."""
    name = re.sub(r"events\.out\.tfevents.*", "events", path.relative_to(root).as_posix())
    return re.sub(r"(step|best|last)-\d{9}", r"\1-N", name)


FREE = ("versions", "sha256", "inputs")
"""Objects whose keys name things, not fields."""


def _keys(text: str) -> dict[str, str]:
    """{'scores[].path': 'text', ...}: each key of a JSON text, and the kind of its value."""
    found: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        kinds = {
            dict: "object",
            list: "list",
            str: "text",
            bool: "true or false",
            int: "number",
            float: "number",
        }
        if path and found.get(path, "null") == "null":
            found[path] = kinds.get(type(value), "null")
        if path and _is_configuration(value):  # train --print-config has its keys
            found[path] = "configuration"
        elif isinstance(value, dict):
            names_presets = set(value) == set(PRESETS)
            for key, entry in value.items():
                free = names_presets or path.rpartition(".")[2] in FREE
                walk(entry, f"{path}.{'*' if free else key}".lstrip("."))
        for entry in value if isinstance(value, list) else []:
            walk(entry, f"{path}[]")

    walk(json.loads(text), "")
    return dict(sorted(found.items()))


def _is_configuration(value: Any) -> bool:
    usual = dataclasses.asdict(realnvp.Config())
    parts = ("data", "model", "train")
    return (
        isinstance(value, dict)
        and value.keys() == usual.keys()
        and all(value[part].keys() == usual[part].keys() for part in parts)
    )


# What a version may not do to an earlier one


def lost(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What is gone or changed, a line each. Additions that break no call are no loss."""
    return [
        *_lost_names(old["python"], new["python"]),
        *_lost_flags(old["commands"], new["commands"]),
        *(
            line
            for name, keys in old["json"].items()
            for line in _lost_keys(f"json, {name}", keys, new["json"].get(name))
        ),
        *(
            line
            for name, files in old["files"].items()
            for line in _gone(f"files, {name}", files, new["files"].get(name, []))
        ),
        *_changed("exit codes", old["exit_codes"], new["exit_codes"]),
    ]


def _gone(where: str, old: Iterable[str], new: Iterable[str]) -> list[str]:
    return [f"{where}: {name} is gone" for name in old if name not in new]


def _changed(where: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    both = [name for name in old if name in new]
    return _gone(where, old, new) + [
        f"{where}: {n}: was {old[n]}, is {new[n]}" for n in both if old[n] != new[n]
    ]


def _lost_names(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found = _gone("python", old, new)
    for name in old.keys() & new.keys():
        before, after = old[name], new[name]
        if isinstance(before, str) or isinstance(after, str):
            found += _lost_parameters(name, before, after)
            continue
        found += _gone(f"{name}, bases", before["bases"], after["bases"])
        found += _lost_parameters(name, before.get("call", "()"), after.get("call", "()"))
        found += _gone(name, before["members"], {**after["members"], **after.get("fields", {})})
        for member in before["members"].keys() & after["members"].keys():
            found += _lost_parameters(
                f"{name}.{member}", before["members"][member], after["members"][member]
            )
        fields = [_as_call(each.get("fields", {})) for each in (before, after)]
        found += _lost_parameters(f"{name}, fields", *fields)
    return sorted(found)


def _as_call(fields: dict[str, str | None]) -> str:
    return f"({', '.join(name if default is None else f'{name}={default}' for name, default in fields.items())})"


def _lost_parameters(name: str, old: str, new: str) -> list[str]:
    """What makes a call of the old signature wrong or another one under the new."""
    if old == new:
        return []
    if not (str(old).startswith("(") and str(new).startswith("(")):
        return [f"{name}: was {old}, is {new}"]
    (places, before), (now_places, after) = _parameters(old), _parameters(new)
    found = _gone(f"{name}{new}", before, after)
    if not found and now_places[: len(places)] != places:
        found = [f"{name}{new}: the order was {', '.join(places)}"]
    for parameter, default in after.items():
        if parameter not in before and default is None and not parameter.startswith("*"):
            found.append(f"{name}{new}: {parameter} is new and has no default")
        if before.get(parameter) is not None and default != before[parameter]:
            found.append(f"{name}{new}: {parameter} was {before[parameter]} by default")
    return found


def _parameters(signature: str) -> tuple[list[str], dict[str, str | None]]:
    """The names that can be given by place, in order, and the defaults of all; None: required."""
    arguments = ast.parse(f"def call{signature}: ...").body[0].args  # type: ignore[attr-defined]
    places = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    defaults = [None] * (len(places) - len(arguments.defaults)) + [
        ast.unparse(each) for each in arguments.defaults
    ]
    found: dict[str, str | None] = dict(zip(places, defaults, strict=True))
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found[each.arg] = None if default is None else ast.unparse(default)
    found |= {
        f"{stars}{each.arg}": None
        for stars, each in (("*", arguments.vararg), ("**", arguments.kwarg))
        if each
    }
    return places, found


def _lost_flags(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found = _gone("commands", old, new)
    for part in ("usage", "sets of prepare"):
        found += _gone(part, old[part], new.get(part, []))
    for preset, defaults in old["train of presets"].items():
        found += _changed(f"train {preset}", defaults, new["train of presets"].get(preset, {}))
        found += [
            f"train {preset}: {flag} has another default than before"
            for flag in new["train of presets"].get(preset, {}).keys()
            & old["train"].keys() - defaults.keys()
        ]
    for command in old.keys() & new.keys() - {"usage", "sets of prepare", "train of presets"}:
        before, after = _by_flag(old[command]), _by_flag(new[command])
        found += _gone(command, before, after)
        for flag in before.keys() & after.keys():
            (metavar, default), (now_metavar, now_default) = before[flag], after[flag]
            if default != now_default and not (default == "required" and flag.startswith("-")):
                found.append(f"{command}: {flag} was {default} by default, is {now_default}")
            if _choices(metavar) - _choices(now_metavar) or bool(metavar) != bool(now_metavar):
                found.append(
                    f"{command}: {flag} took {metavar or 'nothing'}, takes {now_metavar or 'nothing'}"
                )
        found += [
            f"{command}: {flag} is new and required"
            for flag in after.keys() - before
            if after[flag][1] == "required"
        ]
        places = [[flag for flag in flags if not flag.startswith("-")] for flags in (before, after)]
        if places[1][: len(places[0])] != places[0]:
            found.append(
                f"{command}: the order was {' '.join(places[0])}, is {' '.join(places[1])}"
            )
    return sorted(found)


def _by_flag(flags: Flags) -> Flags:
    """One entry for each spelling: '-n, --n' is two."""
    return {flag: value for names, value in flags.items() for flag in names.split(", ")}


def _choices(metavar: str) -> set[str]:
    """What may follow a flag: the kinds, or the words."""
    return set(re.findall(r"[\w-]+", metavar))


def _lost_keys(where: str, old: dict[str, str], new: dict[str, str] | None) -> list[str]:
    if new is None:
        return [f"{where}: is gone"]
    both = [key for key in old if key in new and "null" not in (old[key], new[key])]
    return _gone(where, old, new) + [
        f"{where}: {k} was {old[k]}, is {new[k]}" for k in both if old[k] != new[k]
    ]


def main() -> None:
    """Write the file of the present version, what is short on one line."""
    text = json.dumps(surface(), indent=1) + "\n"
    text = re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda part: _one_line(part[0]), text)
    (DATA / f"surface-{realnvp.__version__}.json").write_text(text)


def _one_line(text: str) -> str:
    line = re.sub(r"([\[{]) | (?=[\]}])", r"\1", " ".join(text.split()))
    return line if len(line) < 90 else text


if __name__ == "__main__":
    main()
