"""What a page of version 0.1.0 imports is the same object where it lies now, with a warning."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from realnvp.earlier import NOW

HERE = Path(__file__).parent
DOCUMENTED = json.loads((HERE / "data" / "surface-0.1.0.json").read_text())["python"]
OLD = [name for name in DOCUMENTED if name.split(".")[1] in NOW and name.count(".") == 2]
REFERENCE = (HERE.parent / "docs" / "reference.md").read_text()
NEW = {
    name.rpartition(".")[2]: name for name in re.findall(r"auto\w+:: (realnvp\.[\w.]+)", REFERENCE)
}


def found(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", OLD)
def test_an_earlier_name_is_the_present_object(name: str) -> None:
    _, module, attribute = name.split(".")
    rooms = [f"realnvp.{room}" for room in NOW[module]]
    assert any(found(name) is vars(importlib.import_module(room)).get(attribute) for room in rooms)
    if attribute in NEW:
        assert found(name) is found(NEW[attribute])


def test_every_documented_name_is_found() -> None:
    for name in DOCUMENTED:
        found(name)


@pytest.mark.parametrize("module", NOW)
def test_an_earlier_module_warns_whoever_imports_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"realnvp.{module}", raising=False)
    with pytest.warns(
        DeprecationWarning, match=re.escape(f"realnvp.{module} is realnvp.{NOW[module][0]}")
    ) as told:
        __import__(f"realnvp.{module}")
    assert told[0].filename == __file__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        found(f"realnvp.{module}.nothing")


def test_no_other_module_is_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("realnvp.nothing")


def test_an_earlier_module_is_looked_at_while_rooms_are_being_imported() -> None:
    # As inspect does, and torch by it: it asks all modules for their __file__.
    lines = [
        "import realnvp.train, sys",
        "assert not hasattr(realnvp.train, '__file__')",
        "assert 'torch' not in sys.modules",
    ]
    lines += ["from realnvp.likelihood import log_probs"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(lines)], check=True)
