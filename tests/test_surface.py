"""What earlier versions offered is still there: names, flags, JSON keys, files, exit codes.

`python -m tests.surface` writes the file of the present version anew, with what it adds.
"""

import copy
import json
from typing import Any

import pytest

from realnvp import bijections
from tests.surface import DATA, lost, surface

FILES = sorted(DATA.glob("surface-*.json"))
FIRST = json.loads((DATA / "surface-0.1.0.json").read_text())
GIVEN_UP = {
    f"realnvp.bijections.{name}: {flag} is gone": "no flags on a bijection: `starting` and `recompute` work by hooks"
    for name in bijections.__all__
    for flag in ("starting", "recompute")
} | {
    "realnvp.bijections.Dequantisation(net, *, levels): bound is gone": "learned noise of 0.1.0 was no bijection",
}
"""Beginnings of lines of `lost` that a version means, and the line of CHANGELOG.md that says so."""


@pytest.fixture(scope="module")
def present() -> dict[str, Any]:
    return surface()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_lost(present: dict[str, Any], path: Any) -> None:
    missing = [
        line
        for line in lost(json.loads(path.read_text()), present)
        if not line.startswith((*GIVEN_UP,))
    ]
    assert not missing, f"{path.name}: users of that version rely on this:\n" + "\n".join(missing)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The first surface with another value, or with None without it, at keys joined by /."""
    other = copy.deepcopy(FIRST)
    *parents, last = path.split("/")
    place = other
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return other


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("python/realnvp.fit", None, "python: realnvp.fit is gone"),
        (
            "python/realnvp.load_flow",
            "(path, which='best')",
            "realnvp.load_flow(path, which='best'): where is gone",
        ),
        ("python/realnvp.load_flow", "(which='best', where='')", "the order was where, which"),
        ("python/realnvp.load_flow", "(where, which='last')", "which was 'best' by default"),
        (
            "python/realnvp.load_flow",
            "(where, device='cpu', which='best')",
            "the order was where, which",
        ),
        ("python/realnvp.load_flow", "(where, *, which='best')", "the order was where, which"),
        (
            "python/realnvp.load_flow",
            "(where, which='best', *, device)",
            "device is new and has no default",
        ),
        ("python/realnvp.PRESETS", "list", "realnvp.PRESETS: was dict, is list"),
        ("python/realnvp.Flow/members/encode", None, "realnvp.Flow: encode is gone"),
        (
            "python/realnvp.Flow/members/encode",
            "(self, images)",
            "realnvp.Flow.encode(self, images): x is gone",
        ),
        ("python/realnvp.Flow/bases", [], "realnvp.Flow, bases: Module is gone"),
        ("python/realnvp.TrainConfig/fields/lr", "0.002", "lr was 0.001 by default"),
        ("python/realnvp.TrainConfig/fields/lr", None, "lr is gone"),
        ("commands/score", None, "commands: score is gone"),
        ("commands/sample/--temperature", None, "sample: --temperature is gone"),
        (
            "commands/sample/--temperature",
            ["FLOAT", "0.9"],
            "sample: --temperature was 1.0 by default, is 0.9",
        ),
        (
            "commands/sample/--temperature",
            ["", "1.0"],
            "sample: --temperature took FLOAT, takes nothing",
        ),
        ("commands/sample/--new", ["INT", "required"], "sample: --new is new and required"),
        ("commands/sample/-n, --n", None, "sample: -n is gone"),
        (
            "commands/share",
            {"DIR": ["", "required"], "RUN": ["", "required"]},
            "share: the order was RUN DIR, is DIR RUN",
        ),
        (
            "commands/evaluate/--split",
            ["{train,test}", "test"],
            "evaluate: --split took {train,validation,test}",
        ),
        (
            "commands/train of presets/photos/--train.lr",
            "0.001",
            "train photos: --train.lr: was 0.002, is 0.001",
        ),
        (
            "commands/train of presets/digits/--train.lr",
            "0.5",
            "train digits: --train.lr has another default",
        ),
        ("commands/train of presets/photos", None, "train photos: --name is gone"),
        ("commands/sets of prepare", ["images"], "sets of prepare: cifar10 is gone"),
        ("json/evaluate/bits_per_dim", None, "json, evaluate: bits_per_dim is gone"),
        ("json/evaluate/bits_per_dim", "text", "json, evaluate: bits_per_dim was number, is text"),
        ("json/metrics.jsonl of a run", None, "json, metrics.jsonl of a run: is gone"),
        ("files/a saved flow", ["config.json"], "files, a saved flow: facts.json is gone"),
        (
            "exit_codes/realnvp evaluate nowhere",
            1,
            "exit codes: realnvp evaluate nowhere: was 2, is 1",
        ),
    ],
)
def test_a_loss_is_told(path: str, value: Any, complaint: str) -> None:
    told = lost(FIRST, changed(path, value))
    assert any(complaint in line for line in told), told


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("python/realnvp.new", "(x)"),
        ("python/realnvp.load_flow", "(where, which='best', device='cpu', *, strict=True, **more)"),
        ("python/realnvp.save_flow", "(flow, folder, facts=None)"),
        ("python/realnvp.build", "(config='digits')"),
        ("python/realnvp.Flow/members/new", "(self)"),
        ("python/realnvp.TrainConfig/fields/new", "0"),
        ("commands/new", {"RUN": ["", "required"]}),
        ("commands/sample/--new", ["INT", "0"]),
        ("commands/prepare/--out", ["PATH", "data"]),
        ("commands/evaluate/--split", ["{train,validation,test,all}", "test"]),
        ("commands/train of presets/new", {"--train.lr": "1"}),
        ("json/evaluate/new", "number"),
        ("json/evaluate/paper", "number"),
        ("files/new", ["x"]),
        ("exit_codes/realnvp new", 0),
    ],
)
def test_what_is_new_is_welcome(path: str, value: Any) -> None:
    assert lost(FIRST, changed(path, value)) == []
