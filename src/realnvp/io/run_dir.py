"""A run directory: what a training writes, by name, and how it is read."""

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
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path
from typing import Any

from realnvp.config import Config, read_config
from realnvp.io.checkpoint import TrainState, state_of
from realnvp.io.files import DamagedError, damaged_if_invalid, newest_intact, numbered, read_record
from realnvp.io.pretrained import why_no_flow

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
class Session:
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


def present_sitting(**where: Any) -> Session:
    """This process as a sitting.

    where: the fields that its training knows, such as from_step and device.
    """
    import torch

    return Session(
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


class RunDir:
    """The files of a run. Nothing is read before it is asked for.

    ValueError: there is no such file yet. DamagedError: a file is not what the training wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.sittings_file = self.path / "environment.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.models = self.path / "model"
        self.samples = self.path / "samples"
        self.data = self.path / "data"

    @property
    def begun(self) -> bool:
        """Whether a training has begun here. A configuration alone may be somebody's."""
        return self.sittings_file.exists() or bool(numbered(self.checkpoints, "step"))

    @property
    def config(self) -> Config:
        """The configuration of the run, or of a saved flow."""
        if not self.config_file.exists():
            raise ValueError(why_no_flow(self.path))
        with damaged_if_invalid():
            return read_config(self.config_file)

    @property
    def sessions(self) -> list[Session]:
        """The commands of the training, the last one at the end."""
        sessions = read_record(list[Session], self.sittings_file, maker="realnvp train")
        if not sessions:
            raise DamagedError(f"{self.sittings_file}: holds no sitting")
        return sessions

    @property
    def init_from(self) -> str | None:
        """The flow whose weights the training started with. None: fresh weights."""
        known = self.sessions if self.sittings_file.exists() else []
        return next((session.init_from for session in known if session.init_from), None)

    @property
    def state(self) -> TrainState | None:
        """Where the training stood at its newest intact checkpoint. None: there is no checkpoint.

        Warns of damaged ones.
        """
        files, complaints = newest_intact(self.checkpoints, "step")
        for complaint in complaints:
            warnings.warn(complaint, stacklevel=2)
        return None if files is None else state_of(files, self.checkpoints)

    def lost_best(self) -> str:
        """What is wrong with the best model; '' if it is there and intact."""
        files, complaints = newest_intact(self.models, "best")
        return "; ".join(complaints) or (
            "" if files else f"{self.models}: the best model is missing"
        )

    def changed_data(self, folder: Path | None, sha256: Mapping[str, str]) -> str:
        """A complaint if the run was trained on other data than the folder's; '' if all is well.

        sha256: of each array in the folder; {} if there are none. Version 0.1.0 kept none.
        """
        sessions = self.sessions if sha256 and self.sittings_file.exists() else []
        known = next((session.data for session in sessions if session.data), sha256)
        names = sorted(name for name in {*known, *sha256} if known.get(name) != sha256.get(name))
        words = f"{folder}: holds other data than {self.path} was trained on ({', '.join(names)})"
        return words if names else ""

    def warn_of_changed_data(self, folder: Path | None, sha256: Mapping[str, str]) -> None:
        """Warn if the run was trained on other data than those in the folder."""
        if changed := self.changed_data(folder, sha256):
            warnings.warn(changed, stacklevel=3)
