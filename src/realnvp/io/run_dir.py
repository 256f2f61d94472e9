"""A run directory: the files that a training writes, by name."""

import os
import platform
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from realnvp.config import Config, read_config
from realnvp.io.checkpoint import TrainState, checkpoints_in, newest_checkpoint
from realnvp.io.files import read_json

PACKAGES = ("realnvp", "torch", "numpy", "safetensors", "pillow", "scikit-image", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Session:
    """One command of a training, and its environment: an entry of environment.json."""

    from_step: int = 0
    time: str
    """ISO 8601, UTC."""
    command: list[str]
    versions: dict[str, str]
    """Of Python and of the packages that a training uses."""
    git_commit: str | None
    """Of the working tree that the command was started in; with '+' if there are changes."""
    platform: str
    processor: str
    cpus: int
    threads: int
    gpus: list[str]
    cuda: str | None
    device: str
    processes: int = 1
    precision: str
    data: dict[str, str]
    """The sha256 of each array that was trained on."""
    init_from: str | None = None
    """The flow whose weights the training started with, as the command named it."""

    @property
    def shell_command(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(self.command)


def current_session(**fields: Any) -> Session:
    """This process as a session; fields: those that its training knows, such as device."""
    import torch

    return Session(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=["realnvp", *sys.argv[1:]],
        versions={"python": platform.python_version()} | _versions(),
        git_commit=_git_commit(),
        platform=platform.platform(),
        processor=_processor(),
        cpus=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        cuda=torch.version.cuda,
        **fields,
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() or None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", path.read_text(), re.M) if path.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


class RunDir:
    """The files of a run. Each property reads its file when it is asked for.

    ValueError: there is no such file. DamagedError: a file is not as the training wrote it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.sessions_file = self.path / "environment.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.models = self.path / "model"
        self.samples = self.path / "samples"
        self.data = self.path / "data"

    @property
    def begun(self) -> bool:
        """Whether a training has begun here. A configuration alone may be somebody's."""
        return self.sessions_file.exists() or bool(checkpoints_in(self.path))

    @property
    def config(self) -> Config:
        """The configuration of the run."""
        if not self.config_file.exists():
            raise ValueError(f"{self.path}: no run directory, it has no config.json")
        return read_config(self.config_file)

    @property
    def sessions(self) -> list[Session]:
        """The commands of the training, the last one at the end."""
        return read_json(list[Session], self.sessions_file)

    @property
    def init_from(self) -> str | None:
        """The flow whose weights the training started with. None: fresh weights."""
        known = self.sessions if self.sessions_file.exists() else []
        return next((session.init_from for session in known if session.init_from), None)

    @property
    def state(self) -> TrainState | None:
        """Where the newest intact checkpoint left the training. None: there is no checkpoint."""
        newest = newest_checkpoint(self.path)
        return None if newest is None else TrainState(**newest[1]["state"])

    def changed_data(self, folder: Path | None, sha256: Mapping[str, str]) -> str:
        """A complaint if the run was trained on other data than the folder's; '' if not.

        sha256: of each array in the folder; {} if there are none.
        """
        if not sha256 or not self.sessions_file.exists() or self.sessions[0].data == sha256:
            return ""
        return f"{folder}: not the data that {self.path} was trained on"

    def warn_of_changed_data(self, folder: Path | None, sha256: Mapping[str, str]) -> None:
        """Warn if the run was trained on other data than the folder's."""
        if changed := self.changed_data(folder, sha256):
            warnings.warn(changed, stacklevel=3)
