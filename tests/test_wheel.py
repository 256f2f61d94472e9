"""The wheel, built and installed into an environment of its own: what a user gets, not what lies
in this folder.
"""

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import python_blocks

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel; torch and the rest come from the one
    that runs the tests.
    """
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
    )
    (wheel,) = folder.glob("realnvp-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        wheel,
    ]
    subprocess.run(pip, check=True, env=clean())
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(
        "\n".join(site.getsitepackages())
    )  # .pth files in there, editable ones, are not followed
    return python


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "OMP_NUM_THREADS": "1"
    }


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run(words, cwd=cwd, env=clean(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_python_of_the_readme_runs(python: Path, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run_dir)
    blocks = python_blocks(ROOT / "README.md")
    where = f"assert realnvp.__file__.startswith({str(python.parents[1])!r}), realnvp.__file__\n"
    (tmp_path / "readme.py").write_text("\n".join([*blocks, where]))
    run(python, "readme.py", cwd=tmp_path)


def test_the_command_runs(python: Path, run_dir: Path, tmp_path: Path) -> None:
    command = python.with_name("realnvp")
    assert run(command, "--help", cwd=tmp_path).startswith("usage: realnvp")
    assert "bits/dim" in run(command, "evaluate", run_dir, "--noise-draws", "1", cwd=tmp_path)
    run(
        command, "sample", "digits-8", "-n", "4", "--out", "samples.png", cwd=tmp_path
    )  # weights are in the wheel, too
    assert (tmp_path / "samples.png").stat().st_size > 0
