"""The exact environment of a training: versions, command, commit, machine."""

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from realnvp.files.records import Fields, check_fields, ours, read_json

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
    path = run / "environment.json"
    sittings = read_json(path, kind=list, maker="realnvp train", fields=FIELDS)
    with ours():
        for sitting in sittings:
            check_fields(sitting, path, {"data": dict} if "data" in sitting else {})
    return sittings


def changed_data(run: Path, folder: Path | None, sha256: Mapping[str, str]) -> str:
    """What a run that was trained on other data than these in a folder has to say of it; '' if all is well.

    sha256: of each array. Version 0.1.0 did not keep them, and data made anew have none.
    """
    sittings = read_sittings(run) if sha256 and (run / "environment.json").exists() else []
    known = next((sitting["data"] for sitting in sittings if sitting.get("data")), sha256)
    if not (names := sorted(name for name in known.keys() | sha256.keys() if known.get(name) != sha256.get(name))):
        return ""
    return f"{folder}: holds other data than {run} was trained on ({', '.join(names)})"


def warn_of_changed_data(run: Path, folder: Path | None, sha256: Mapping[str, str]) -> None:
    """Say so if a run was trained on other data than these."""
    if changed := changed_data(run, folder, sha256):
        warnings.warn(changed, stacklevel=3)


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
