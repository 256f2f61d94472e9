"""The layers of the package, what help must not wait for, and what no file may do."""

import ast
import subprocess
import sys
from pathlib import Path

import realnvp

SOURCE = Path(realnvp.__file__).parent
# A module imports only its own subpackage and those of the lines above (docs/design.md).
LAYERS = [
    "config",
    "random moments progress device",
    "bijections nets",
    "flows",
    "io",
    "data",
    "evaluation figures",
    "anomaly codec",
    "training",
    "sklearn hub export",
    "cli",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}


def imports(path: Path) -> set[str]:
    """All imports of a file, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_a_module_imports_only_the_layers_below_it() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        here = path.relative_to(SOURCE).with_suffix("").parts[0]
        if here.startswith("__"):
            continue
        used = {name.split(".")[1] for name in imports(path) if name.startswith("realnvp.")}
        for other in (used & LEVEL.keys()) - {here}:
            if LEVEL[other] > LEVEL[here]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert wrong == []


def test_nets_and_bijections_never_import_each_other() -> None:
    for one, other in (("nets", "bijections"), ("bijections", "nets")):
        for path in (SOURCE / one).rglob("*.py"):
            assert not any(name.startswith(f"realnvp.{other}") for name in imports(path)), path


def test_help_and_configuration_never_import_torch() -> None:
    code = """
import sys
from realnvp.cli.main import COMMANDS, run
for command in ["", *COMMANDS, "train photos"]:
    assert run([*command.split(), "--help"]) == 0
assert run(["train", "photos", "--print-config"]) == 0
assert run(["train", "photos", "--train.unknown"]) == 2
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
