"""A run directory: what a training writes, by name, and how it is read."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from realnvp.config import Config, read_config
from realnvp.files.checkpoint import TrainState, state_of
from realnvp.files.environment import Sitting
from realnvp.files.folders import newest_intact, numbered
from realnvp.files.records import DamagedError, damaged_if_invalid, read_record
from realnvp.files.saved import why_no_flow


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
    def sittings(self) -> list[Sitting]:
        """The commands of the training, the last one at the end."""
        sittings = read_record(list[Sitting], self.sittings_file, maker="realnvp train")
        if not sittings:
            raise DamagedError(f"{self.sittings_file}: holds no sitting")
        return sittings

    @property
    def init_from(self) -> str | None:
        """The flow whose weights the training started with. None: fresh weights."""
        known = self.sittings if self.sittings_file.exists() else []
        return next((sitting.init_from for sitting in known if sitting.init_from), None)

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
        sittings = self.sittings if sha256 and self.sittings_file.exists() else []
        known = next((sitting.data for sitting in sittings if sitting.data), sha256)
        names = sorted(name for name in {*known, *sha256} if known.get(name) != sha256.get(name))
        words = f"{folder}: holds other data than {self.path} was trained on ({', '.join(names)})"
        return words if names else ""

    def warn_of_changed_data(self, folder: Path | None, sha256: Mapping[str, str]) -> None:
        """Warn if the run was trained on other data than those in the folder."""
        if changed := self.changed_data(folder, sha256):
            warnings.warn(changed, stacklevel=3)
