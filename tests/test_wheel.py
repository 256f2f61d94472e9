"""The wheel, built and installed into an environment of its own."""

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import python_blocks

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel; other packages are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True)
    (wheel,) = folder.glob("realnvp-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", wheel], check=True, env=CLEAN)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    # .pth files in there, editable ones, are not followed.
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return python


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=CLEAN, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_python_of_the_readme_runs(python: Path, tmp_path: Path) -> None:
    blocks = python_blocks(ROOT / "README.md")
    where = f"assert realnvp.__file__.startswith({str(python.parents[1])!r}), realnvp.__file__\n"
    (tmp_path / "readme.py").write_text("\n".join([*blocks, where]))
    run(python, "readme.py", cwd=tmp_path)


def test_the_command_runs(python: Path, run_dir: Path, tmp_path: Path) -> None:
    command = python.with_name("realnvp")
    assert "bits/dim" in run(command, "evaluate", run_dir, cwd=tmp_path)
    run(command, "sample", "digits-8", "-n", "4", "--out", "samples.png", cwd=tmp_path)
    assert (tmp_path / "samples.png").stat().st_size > 0
