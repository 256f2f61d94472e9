"""The words after a command, checked in our words before tyro makes its dataclass of them."""

import dataclasses
import difflib
import types
import typing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from realnvp.config import nearest
from realnvp.config.errors import ParameterError

ELSEWHERE: tuple[tuple[str, str, str], ...] = (
    (
        "epochs num-epochs max-epochs n-epochs train-epochs nb-epochs",
        "train.max-steps train.max-minutes",
        "a training counts steps, of --train.batch-size images or rows each",
    ),
    (
        "steps num-steps max-steps max-iter iterations n-iter num-iterations train-steps",
        "train.max-steps",
        "",
    ),
    ("minutes max-minutes max-time time-limit", "train.max-minutes", ""),
    ("lr learning-rate base-lr", "train.lr", ""),
    ("batch-size bs batch train-batch-size batchsize", "train.batch-size", ""),
    ("weight-decay wd", "train.l2 train.muon-weight-decay", ""),
    ("clip-grad grad-clip max-grad-norm clip-norm", "train.grad_clip", ""),
    ("optimizer optim", "train.muon-lr", "it is Adam, beside Muon where that has a learning rate"),
    ("scheduler lr-scheduler", "train.decay train.warmup", ""),
    ("fp16 bf16 amp half mixed-precision precision", "train.precision", ""),
    ("ema ema-decay", "train.ema_decay", ""),
    ("early-stopping patience", "train.patience", ""),
    (
        "gpu gpus cuda use-cuda no-cuda cpu use-gpu accelerator",
        "device",
        "cuda, cuda:1 ..., or cpu",
    ),
    (
        "num-workers workers n-jobs num-threads",
        "threads",
        "batches are read ahead without processes of their own",
    ),
    (
        "output output-dir outdir out-dir out save-dir logdir log-dir exp-dir",
        "run-dir out onnx DIR",
        "",
    ),
    (
        "data dataset data-dir data-path datadir input input-dir root train-dir source",
        "data.source source",
        "",
    ),
    (
        "pretrained checkpoint ckpt finetune weights load init load-from",
        "init-from",
        "a training that was stopped goes on with its own command",
    ),
    (
        "resume resume-from continue",
        "run-dir",
        "a training that was stopped goes on with its own command",
    ),
    ("hidden hidden-dim hidden-size hidden-channels dim n-filters", "model.width", ""),
    ("layers num-layers n-layers n-flows num-flows flows", "model.num-couplings", ""),
    ("levels n-levels num-levels", "data.levels", ""),
    ("image-size img-size size", "data.resize resize", ""),
    ("hflip horizontal-flip augment", "data.flip", ""),
    ("val-split validation-split val-fraction validation-fraction test-split", "data.held-out", ""),
    ("wandb tensorboard logger tracker report-to", "train.tracker", ""),
    ("random-state random-seed manual-seed", "seed", ""),
    ("num num-samples n-samples num-images count samples", "n", ""),
    ("temp", "temperature", ""),
)
"""Names elsewhere, names here of which a command has some, and what to know. Capitals: a place."""


def meant(flag: str, known: Iterable[str], places: Sequence[str] = ()) -> str:
    """'; here it is --train.lr', ' (did you mean --data.columns?)', or ''.

    flag: an unknown flag, --learning-rate.
    known: the flags of the command.
    places: what the command takes without a flag, as `--help` calls it.
    """
    known = [*known]
    for names, here, remark in ELSEWHERE:
        there = [f"--{name}" for name in here.split() if f"--{name}" in known]
        there += [f"{name}, without a flag" for name in here.split() if name in places]
        if flag.removeprefix("--") in names.split() and there:
            return f"; here it is {' or '.join(there)}" + (remark and f" ({remark})")
    by_leaf = {_leaf(name): name for name in known}
    spellings = by_leaf | {name: name for name in known}
    near = difflib.get_close_matches(flag, spellings, n=1)
    near = near or difflib.get_close_matches(_leaf(flag), spellings, n=1)
    found = by_leaf.get(_leaf(flag)) or (spellings[near[0]] if near else "")
    return f" (did you mean {found}?)" if found else ""


def _leaf(flag: str) -> str:
    """--train.max-steps -> max-steps."""
    return flag.removeprefix("--").rpartition(".")[2]


WORDS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
SWITCHES = {"true": True, "false": False}


class Argument(NamedTuple):
    """What a command can be given."""

    name: str
    """A flag without its dashes, `train.lr`; what `--help` calls a positional argument."""
    kind: Any
    """The type of its values: of `tuple[int, ...]` int, of `int | None` int."""
    positional: bool = False
    required: bool = False
    several: bool = False
    """Takes any number of words."""
    optional: bool = False
    """Takes None."""
    pair: bool = False
    """A switch with a flag that turns it off, `data.no-flip`."""
    aliases: tuple[str, ...] = ()
    help: str = ""

    @property
    def wanted(self) -> str:
        """What can be given, in words."""
        choices = typing.get_args(self.kind)
        one = f"one of {', '.join(choices)}" if choices else WORDS[self.kind]
        return one + " or None" * self.optional

    def read(self, word: str) -> str:
        """The word as tyro takes it. ValueError, a ParameterError of a flag: it does not fit."""
        if self.optional and word.lower() in ("none", "null") and self.kind not in (str, Path):
            return "None"
        choices = typing.get_args(self.kind)
        try:
            fits = not choices and self.kind(word) is not None
        except ValueError:
            fits = False
        if fits or word in choices or (self.optional and word == "None"):
            return word
        words = f"{word!r} is not {self.wanted}{nearest(word, choices)}"
        if self.positional:
            raise ValueError(f"{self.name}: {words}")
        raise ParameterError(self.name, words)


Flags = dict[str, Argument]


def settled(command: type[Any], argv: Sequence[str], *, prog: str) -> list[str]:
    """The words of a command as tyro takes them: switches without values, None with a capital.

    ValueError, in one line, names the flag that is unknown, with what is meant, the value that is
    of another type, or what is missing.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        return [*argv]
    arguments = [*arguments_of(command)]
    try:
        taken, context, rest = _flags(arguments, deque(argv))
        data = any(each.name == "data.source" for each in arguments)
        _check_places([each for each in arguments if each.positional], rest, data=data)
        for each in arguments:
            if each.required and not each.positional and each.name not in context:
                raise ParameterError(each.name, "is missing")
    except ParameterError:
        raise
    except ValueError as error:
        raise ValueError(f"{error}; see {prog} --help") from None
    return [*taken, "--", *rest] if rest else taken


def _flags(
    arguments: Sequence[Argument], words: "deque[str]"
) -> tuple[list[str], set[str], list[str]]:
    """The flags with their values, the names of the flags, and the words that belong to none."""
    flags = {f"--{each.name}": each for each in arguments if not each.positional}
    flags |= {alias: each for each in arguments for alias in each.aliases}
    off = {f"--{_off(each.name)}" for each in arguments if each.pair}
    taken, context, rest = list[str](), set[str](), list[str]()
    while words:
        word = words.popleft()
        if word == "--":
            return taken, context, [*rest, *words]
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag in off and not equals:
            taken.append(flag)
        elif argument := flags.get(flag):
            words.extendleft([value] * bool(equals))
            switch = argument.kind is bool
            taken += _switch(argument, words) if switch else _values(argument, words, flags)
            context.add(argument.name)
        elif word.startswith("--"):
            places = [each.name for each in arguments if each.positional]
            hint = meant(flag, [*flags, *off], places)
            raise ValueError(f"{word.split('=')[0]}: no such flag{hint}")
        else:
            rest.append(word)
    return taken, context, rest


def _check_places(places: Sequence[Argument], words: Sequence[str], *, data: bool) -> None:
    """ValueError: a word has no place, a place no word, or a word does not fit.

    data: whether a flag takes data, which a word without a place may be.
    """
    for place, word in zip(places, words, strict=False):
        place.read(word)
    if len(words) > len(places) and not any(place.several for place in places):
        word = words[len(places)]
        hint = f"; data: --data.source {word}" if data and Path(word).exists() else ""
        raise ValueError(f"{word!r}: belongs to no flag{hint}")
    if missing := next((each for each in places[len(words) :] if each.required), None):
        raise ValueError(
            ": ".join(filter(None, [f"{missing.name} is missing", missing.help.rstrip(".")]))
        )


def _switch(argument: Argument, words: "deque[str]") -> list[str]:
    """A switch as its flag, on or off: by the word after it where that says true or false."""
    on = True
    if words and words[0].lower() in SWITCHES:
        on = SWITCHES[words.popleft().lower()]
    if on:
        return [f"--{argument.name}"]
    return [f"--{_off(argument.name)}"] if argument.pair else []


def _values(argument: Argument, words: "deque[str]", flags: Flags) -> list[str]:
    """A flag and its values."""
    values: list[str] = []
    while words and (argument.several or not values):
        if words[0].startswith("--") or words[0] in flags:
            break
        values.append(argument.read(words.popleft()))
    if not values:
        raise ParameterError(argument.name, f"needs a value: {argument.wanted}")
    return [f"--{argument.name}", *values]


def _off(name: str) -> str:
    """The flag that turns a switch off: data.flip -> data.no-flip."""
    *parents, leaf = name.split(".")
    return ".".join([*parents, f"no-{leaf}"])


def arguments_of(command: type[Any], prefix: str = "") -> Iterator[Argument]:
    """The arguments of a command's dataclass, those of the dataclasses in it included."""
    hints = typing.get_type_hints(command, include_extras=True)
    for item in dataclasses.fields(command):
        kind, *marks = _without_marks(hints[item.name])
        own = next((mark for mark in marks if hasattr(mark, "aliases")), None)
        name = item.name.replace("_", "-") if own is None or own.name is None else own.name
        path = ".".join(filter(None, [prefix, name]))
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from arguments_of(kind, path)
            continue
        # `Literal[...] | None` is a Union of typing, `int | None` one of the interpreter.
        union = typing.get_origin(kind) in (typing.Union, types.UnionType)
        options = typing.get_args(kind) if union else (kind,)
        [inner] = [option for option in options if option is not types.NoneType]
        several = typing.get_origin(inner) is tuple
        positional = tyro.conf.Positional in marks
        yield Argument(
            (own and own.metavar) or path.upper() if positional else path,
            typing.get_args(inner)[0] if several else inner,
            positional,
            required=item.default is item.default_factory and not (positional and several),
            several=several and tyro.conf.UseAppendAction not in marks,
            optional=len(options) > 1,
            pair=inner is bool and tyro.conf.FlagCreatePairsOff not in marks,
            aliases=tuple((own and own.aliases) or ()),
            help=(own and own.help) or "",
        )


def _without_marks(hint: Any) -> tuple[Any, ...]:
    """A type, and what `Annotated` says of it."""
    if typing.get_origin(hint) is not typing.Annotated:
        return (hint,)
    kind, *marks = typing.get_args(hint)
    inner, *more = _without_marks(kind)
    return (inner, *more, *marks)
