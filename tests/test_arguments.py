"""What is told of flags: what is wrong, what is accepted, what a flag is called here."""

import json
import typing
from pathlib import Path

import pytest
from told import Out, refused

from realnvp.cli.arguments import ELSEWHERE, arguments_of
from realnvp.cli.main import COMMANDS, run
from realnvp.cli.train import Train

TRAIN = ["train", "images"]


def every_command() -> list[type]:
    """The dataclasses of all commands."""
    return [Train, *(command for command in COMMANDS.values() if isinstance(command, type))]


WRONG: dict[str, tuple[list[str], str]] = {
    "a number": ([*TRAIN, "--train.lr", "fast"], "--train.lr: 'fast' is not a number"),
    "a whole number": (
        [*TRAIN, "--train.max-steps=1.5"],
        "--train.max-steps: '1.5' is not a whole number or None",
    ),
    "several": ([*TRAIN, "--data.shape", "1", "a"], "--data.shape: 'a' is not a whole number"),
    "a choice": (
        [*TRAIN, "--model.coupling", "afine"],
        "--model.coupling: 'afine' is not one of affine, additive, spline (did you mean 'affine'?)",
    ),
    "a choice or None": (
        ["score", "x", "y", "--color-mode", "gray"],
        "--color-mode: 'gray' is not one of grey, rgb or None (did you mean 'grey'?)",
    ),
    "no value": (["sample", "x", "-n"], "-n: needs a value: a whole number"),
    "no value before a flag": ([*TRAIN, "--seed", "--dry-run"], "--seed: needs a value"),
    "mistyped": ([*TRAIN, "--data.colums", "a"], "no such flag (did you mean --data.columns?)"),
    "without its section": ([*TRAIN, "--num-blocks", "3"], "(did you mean --model.num-blocks?)"),
    "epochs": ([*TRAIN, "--epochs", "3"], "--epochs: no such flag; here it is --train.max-steps"),
    "lr": ([*TRAIN, "--lr=1"], "--lr: no such flag; here it is --train.lr;"),
    "learning rate": ([*TRAIN, "--learning_rate", "1"], "here it is --train.lr;"),
    "batch size": ([*TRAIN, "--batch-size", "1"], "here it is --train.batch-size;"),
    "gpu": (["evaluate", "x", "--gpu"], "here it is --device (cuda"),
    "output of a training": ([*TRAIN, "--output", "x"], "here it is --run-dir;"),
    "output of samples": (["sample", "x", "--output", "x"], "here it is --out;"),
    "output of share": (
        ["share", "x", "--out", "y"],
        "--out: no such flag; here it is DIR, without",
    ),
    "workers": ([*TRAIN, "--num-workers", "4"], "here it is --threads"),
    "nothing like it": ([*TRAIN, "--xyz"], "--xyz: no such flag; see realnvp train images --help"),
    "a stray word": (["evaluate", "x", "y"], "'y': belongs to no flag; see realnvp evaluate"),
    "a stray folder": ([*TRAIN, "/"], "'/': belongs to no flag; data: --data.source /; see"),
    "no run": (["evaluate"], "RUN is missing: A run directory"),
    "no required flag": (["export", "x"], "--onnx: is missing"),
    "a place": (["prepare", "cifar", "--source", "a", "--out", "b"], "SET: 'cifar' is not one of"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_told_in_our_words(capsys: Out, kind: str) -> None:
    argv, reason = WRONG[kind]
    told = refused(capsys, *argv)
    assert reason in told
    assert not any(jargon in told for jargon in ("{", "INT", "NoneType", "helptext", "|"))


def test_every_choice_of_every_command_is_taken() -> None:
    flags = [each for command in every_command() for each in arguments_of(command)]
    choices = [(flag, choice) for flag in flags for choice in typing.get_args(flag.kind)]
    assert all(flag.read(choice) == choice for flag, choice in choices)
    assert {"colours", "which", "model.coupling"} <= {flag.name for flag, _ in choices}
    assert all(flag.wanted for flag in flags if flag.kind is not bool)


@pytest.mark.parametrize(
    ("words", "flip"),
    [
        ("--data.flip", True),
        ("--data.flip True", True),
        ("--data.flip=true", True),
        ("--data.flip false", False),
        ("--data.flip=False", False),
        ("--data.no-flip", False),
        ("--data.flip --data.no-flip", False),
    ],
)
def test_switches_take_true_and_false(capsys: Out, words: str, flip: bool) -> None:
    assert run([*TRAIN, "--print-config", "true", *words.split()]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["flip"] is flip


def test_none_in_any_spelling_negative_numbers_and_words_after_two_dashes(capsys: Out) -> None:
    words = "--train.max-steps None --train.max-minutes 5 --train.muon-lr none --data.shape 1 8 8"
    assert run([*TRAIN, *words.split(), "--train.lr=1e-2", "--print-config"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["train"]["max_steps"], config["train"]["muon_lr"]) == (None, None)
    assert (config["data"]["shape"], config["train"]["lr"]) == ([1, 8, 8], 0.01)
    assert "train.lr: -1.0 must be positive" in refused(capsys, *TRAIN, "--train.lr", "-1")
    assert "--odd: no such run" in refused(capsys, "info", "--", "--odd")


def test_a_source_may_be_called_none(capsys: Out, tmp_path: Path) -> None:
    assert run([*TRAIN, "--data.source", "none", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["source"] == "none"


def test_help_says_what_may_be_none(capsys: Out) -> None:
    with pytest.raises(SystemExit):
        run([*TRAIN, "--help"])
    told = capsys.readouterr().out
    assert "--train.max-steps INT or None" in told
    assert "--data.columns STR... or None" in told
    assert "{None}" not in told


def test_every_name_here_is_a_flag_of_some_command() -> None:
    flags = {each.name for command in every_command() for each in arguments_of(command)}
    assert {name for _, here, _ in ELSEWHERE for name in here.split()} <= flags
    names = [name for names, _, _ in ELSEWHERE for name in names.split()]
    assert len({*names}) == len(names)
