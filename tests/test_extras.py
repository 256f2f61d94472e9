"""The package without its extras builds, loads, gives log_prob and samples."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
# Packages that are imported by other names.
MODULES = {"pillow": "PIL", "scikit-image": "skimage", "scikit-learn": "sklearn"}
MISSING = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {} else find(name, *rest)
"""
CORE = """
import sys, torch, realnvp
flow = realnvp.build("digits").eval()
x = flow.sample(2, seed=0)
assert flow.log_prob(x).isfinite().all()
assert (flow.decode(flow.encode(x.double())) - x).abs().max() < 1e-3
assert realnvp.bits_per_dim(flow, realnvp.quantize(x, levels=17)).mean > 0
realnvp.save_flow(flow, sys.argv[1])
assert torch.equal(realnvp.load_flow(sys.argv[1]).sample(2, seed=0), x)
assert realnvp.fast(flow).log_prob(x).isfinite().all()
"""


def without(modules: Iterable[str], code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Python where these modules are not installed."""
    command = [sys.executable, "-c", MISSING.format({*modules}) + code, *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_package_alone_builds_loads_and_samples(tmp_path: Path) -> None:
    names = {re.split(r"[^\w-]", package)[0] for package in chain(*EXTRAS.values())}
    others = {MODULES.get(name, name) for name in names} - {"realnvp"} | {"scipy"}
    done = without(others, CORE, str(tmp_path / "flow.safetensors"))
    assert done.returncode == 0, done.stderr
