"""Sittings: the commands of a training, each with its versions, machine and commit."""

import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path
from typing import Any

PACKAGES = (
    "realnvp",
    "torch",
    "numpy",
    "safetensors",
    "accelerate",
    "pillow",
    "scikit-image",
    "scikit-learn",
)


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """One command of a training, and its environment."""

    from_step: int | None = None
    time: str
    """ISO 8601, UTC."""
    command: list[str]
    versions: dict[str, str]
    """Of python and each package that a training uses."""
    git_commit: str | None
    """Of the working tree that the command was started in; with '+' if there are changes."""
    platform: str
    processor: str
    cpus: int
    threads: int
    gpus: list[str]
    cuda: str | None
    device: str | None = None
    processes: int | None = None
    precision: str | None = None
    data: dict[str, str] | None = None
    """The sha256 of each array that was trained on."""
    init_from: str | None = None
    """The flow whose weights the training started with, as the command named it."""

    @property
    def shell_command(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(self.command)


def present_sitting(**where: Any) -> Sitting:
    """This process as a sitting.

    where: the fields that its training knows, such as from_step and device.
    """
    import torch

    return Sitting(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=["realnvp", *sys.argv[1:]],
        versions={"python": platform.python_version()}
        | {
            name: found.version
            for name in PACKAGES
            for found in islice(distributions(name=name), 1)
        },
        git_commit=_git_commit(),
        platform=platform.platform(),
        processor=_processor(),
        cpus=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        cuda=torch.version.cuda,
        **where,
    )


def _git_commit() -> str | None:
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() or None


def _processor() -> str:
    """The processor's name where the system tells, else its kind."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", path.read_text(), re.M) if path.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
