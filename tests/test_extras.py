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
MODULES = {
    "pillow": "PIL",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}  # where a package is not imported by its name
MISSING = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {modules} else find(name, *rest)
"""
CORE = """
import sys, torch, realnvp
flow = realnvp.build("digits").eval()
x = flow.sample(2, seed=0)
assert flow.log_prob(x).isfinite().all()
assert (flow.decode(flow.encode(x.double())) - x).abs().max() < 1e-3
assert realnvp.bits_per_dim(flow, realnvp.quantize(x, levels=17)).mean > 0
realnvp.save_flow(flow, sys.argv[1] + "/saved")
again = realnvp.load_flow(sys.argv[1] + "/saved")
assert torch.equal(again.sample(2, seed=0), x)
assert realnvp.fast(flow).log_prob(x).isfinite().all()
"""


def extras() -> dict[str, set[str]]:
    """The modules that each extra for users brings, those of other extras in it included."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def modules(extra: str) -> set[str]:
        names: set[str] = set()
        for requirement in found[extra]:
            inner = re.fullmatch(r"realnvp\[(.*)\]", requirement)
            name = re.split(r"[^\w-]", requirement)[0]
            names |= (
                {*chain.from_iterable(map(modules, inner[1].split(",")))}
                if inner
                else {MODULES.get(name, name)}
            )
        return names

    return {extra: modules(extra) for extra in found if extra not in ("dev", "docs")}


def without(modules: Iterable[str], code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Python where these modules are not installed."""
    words = [sys.executable, "-c", MISSING.format(modules={*modules}) + code, *argv]
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_package_alone_builds_loads_and_samples(tmp_path: Path) -> None:
    others = {module for modules in extras().values() for module in modules}
    done = without(others | {"scipy", "pandas", "pytest"}, CORE, str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_the_lowest_versions_that_are_declared_are_the_ones_that_are_tested() -> None:
    """Each package has one lower bound, held by the file that CI installs on the lowest Python."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = declared["project"]
    wanted = {
        *declared["build-system"]["requires"],
        *project["dependencies"],
        *chain(*project["optional-dependencies"].values()),
    }
    packages = [each for each in wanted if not each.startswith("realnvp[")]
    lowest = sorted({re.sub(r">=([\d.]+)(,<[\d.]+)?$", r"==\1", each) for each in packages})
    pins = [
        line
        for line in (ROOT / "requirements-lowest.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert pins == lowest
    assert len({pin.partition("==")[0] for pin in pins}) == len(pins)

    tested = re.findall(
        r'- python: "(.*)"\n +versions: (\S*)', (ROOT / ".github/workflows/ci.yml").read_text()
    )
    pythons = [
        line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)
    ]
    assert project["requires-python"] == f">={pythons[0]}"
    assert tested == [(pythons[0], "requirements-lowest.txt"), (pythons[-1], '""')]
