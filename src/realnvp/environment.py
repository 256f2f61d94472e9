"""The exact environment of a training: versions, command, commit, machine."""

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from realnvp.folders import Fields, read_json

PACKAGES = ("realnvp", "torch", "numpy", "safetensors", "accelerate", "pillow", "scikit-image", "scikit-learn")
FIELDS: Fields = {
    "command": list,
    "versions": dict,
    "gpus": list,
    "cpus": int,
    "threads": int,
    "git_commit": str | None,
    **dict.fromkeys(("time", "platform", "processor"), str),
}


def environment() -> dict[str, Any]:
    """What decides the bits of a result beside configuration and data."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["realnvp", *sys.argv[1:]],
        "versions": {"python": platform.python_version()} | {name: v for name in PACKAGES if (v := _version(name))},
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
    } | _of_torch()


def read_sittings(run: Path) -> list[dict[str, Any]]:
    """The environments of a run's sittings, the last one at the end; DamagedError if one of them is none."""
    return read_json(run / "environment.json", kind=list, maker="realnvp train", fields=FIELDS)


def command_of(sitting: dict[str, Any]) -> str:
    """The command of a sitting, quoted for a shell."""
    return shlex.join(map(str, sitting["command"]))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the working tree that the program was started in, with '+' if there are changes."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() or None


def _processor() -> str:
    """Its name where the system tells, else its kind."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", path.read_text(), re.M) if path.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _of_torch() -> dict[str, Any]:
    """Its threads, and the GPUs that it sees."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"threads": torch.get_num_threads(), "gpus": gpus, "cuda": torch.version.cuda}
