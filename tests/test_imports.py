"""The house: who may import whom (docs/design.md), and what help must not wait for."""

import ast
import subprocess
import sys
from pathlib import Path

import realnvp

SOURCE = Path(realnvp.__file__).parent
# A room imports itself and the rooms above it.
ROOMS = [
    "earlier",
    "config",
    "tools",
    "bijections",
    "networks",
    "flows",
    "files",
    "data",
    "evaluation",
    "odd codec",
    "training",
    "sklearn hub export",
    "cli",
]
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names.split()}
ONLY_IN = {"accelerate": "training/", "matplotlib": "evaluation/figures/"}


def imports(path: Path) -> set[str]:
    """What a file imports, anywhere in it: modules, and the names taken from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    """The rooms that a file imports."""
    return {
        name.split(".")[1] for name in imports(path) if name.startswith("realnvp.")
    } & LEVEL.keys()


def test_a_room_imports_only_itself_and_the_rooms_above() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE)
        if name.stem not in ("__init__", "__main__") or name.parent.parts:
            here = name.with_suffix("").parts[0]
            wrong += [
                f"{name} imports {room}"
                for room in rooms(path)
                if room != here and LEVEL[room] >= LEVEL[here]
            ]
    assert wrong == []


def test_networks_and_bijections_never_import_each_other() -> None:
    for one, other in (("networks", "bijections"), ("bijections", "networks")):
        assert not any(other in rooms(path) for path in (SOURCE / one).rglob("*.py"))


def test_only_training_knows_accelerate_and_only_figures_matplotlib() -> None:
    for path in SOURCE.rglob("*.py"):
        for name in {name.split(".")[0] for name in imports(path)} & ONLY_IN.keys():
            assert path.relative_to(SOURCE).as_posix().startswith(ONLY_IN[name])


def test_help_and_configuration_never_import_torch() -> None:
    code = (
        "import sys, realnvp, realnvp.cli.main as cli, realnvp.config.units; realnvp.PRESETS; cli.run(['--help'])\n"
        "commands = 'prepare evaluate sample score compress decompress check figures report table info share export presets train'.split()\n"
        "commands += ['train photos']\n"
        "for command in commands:\n"
        "    try: cli.run([*command.split(), '--help'])\n"
        "    except SystemExit: pass\n"
        "cli.run(['train', 'photos', '--print-config'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600).returncode
        == 0
    )


def test_nothing_loads_pickles_or_evaluates() -> None:
    forbidden = ("import pickle", "torch.load(", "allow_pickle=True", " eval(", "exec(", "yaml")
    text = {
        path: path.read_text().replace("safetensors.torch.load(", "")
        for path in SOURCE.rglob("*.py")
    }
    assert [
        (path.name, word) for path, content in text.items() for word in forbidden if word in content
    ] == []
