"""The house: who may import whom (docs/design.md), and what help must not wait for."""

import ast
import subprocess
import sys
from pathlib import Path

import realnvp

SOURCE = Path(realnvp.__file__).parent
LAYERS: list[set[str]] = [
    {
        "bijections.base",
        "bijections.masks",
        "moments",
        "averages",
        "muon",
        "schedule",
        "convolution",
        "normalise",
        "config",
        "noise",
        "prior",
        "folders",
        "locate",
        "units",
        "card",
        "progress",
        "environment",
        "device",
        "signals",
        "data",
    },
    {
        "bijections",
        "bijections.actnorm",
        "bijections.coupling",
        "bijections.dequantisation",
        "bijections.multiscale",
        "bijections.batchnorm",
        "bijections.logit",
        "bijections.mixing",
        "nets",
        "flow",
        "batches",
        "views",
    },
    {"models", "latent", "folded", "distributions"},
    {"checkpoint", "memory", "nonfinite", "trackers"},
    {"likelihood", "evaluate", "score", "check", "claim"},
    {"figures", "run"},
    {"step", "train", "fitting", "sklearn", "sampling", "export", "table", "report", "hub"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# Within a layer, in this order.
SAME_LAYER_ALLOWED = {
    ("evaluate", "likelihood"),
    ("score", "likelihood"),
    ("check", "likelihood"),
    ("prior", "noise"),
    ("bijections.base", "moments"),
    ("normalise", "moments"),
    ("data", "config"),
    ("data", "folders"),
    ("data", "noise"),
    ("data", "progress"),
    ("environment", "folders"),
    ("locate", "config"),
    ("locate", "folders"),
    ("card", "config"),
    ("card", "units"),
    ("units", "config"),
    ("hub", "table"),
    ("sklearn", "fitting"),
    ("train", "step"),
}


def room(module: str) -> str:
    parts = module.removeprefix("realnvp.").split(".")
    return parts[0] if parts[0] in ("config", "data", "cli", "figures") else ".".join(parts)


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("realnvp.")
    }


def test_imports_go_strictly_down() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        if name in ("__init__", "__main__"):
            continue
        here = room(name)
        for module in imports(path):
            there = room(module)
            inside = here == there or here == "bijections" or (here, there) in SAME_LAYER_ALLOWED
            if not inside and LEVEL[there] >= LEVEL[here]:
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_networks_and_bijections_never_import_each_other() -> None:
    assert not any(module.startswith("realnvp.nets") for path in (SOURCE / "bijections").glob("*.py") for module in imports(path))
    assert not any(module.startswith("realnvp.bijections") for module in imports(SOURCE / "nets.py"))


def test_help_and_configuration_never_import_torch() -> None:
    code = (
        "import sys, realnvp, realnvp.cli.main as cli; realnvp.PRESETS; cli.run(['--help'])\n"
        "commands = 'prepare evaluate sample score check figures report table info share export presets train'.split()\n"
        "commands += ['train photos']\n"
        "for command in commands:\n"
        "    try: cli.run([*command.split(), '--help'])\n"
        "    except SystemExit: pass\n"
        "cli.run(['train', 'photos', '--print-config'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600).returncode == 0


def test_nothing_loads_pickles_or_evaluates() -> None:
    forbidden = ("import pickle", "torch.load(", "allow_pickle=True", " eval(", "exec(", "yaml")
    text = {path: path.read_text().replace("safetensors.torch.load(", "") for path in SOURCE.rglob("*.py")}
    assert [(path.name, word) for path, content in text.items() for word in forbidden if word in content] == []
