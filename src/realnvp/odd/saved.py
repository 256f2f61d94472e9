"""A detector as files beside its flow: JSON and safetensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from realnvp.files.records import DamagedError, damaged_if_invalid, fields_of, parse_record
from realnvp.files.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from realnvp.odd.detector import Detector, Fitted

SETTINGS, NUMBERS = "detector.json", "detector.safetensors"
FILES = (SETTINGS, NUMBERS)


@dataclass(frozen=True)
class Settings:
    """What detector.json holds."""

    false_alarms: float
    noise_draws: int
    seed: int


def to_files(detector: "Detector", fitted: "Fitted") -> dict[str, bytes]:
    """{file name: content} of a fitted detector."""
    settings = Settings(detector.false_alarms, detector.noise_draws, detector.seed)
    tensors = {
        **{f"places.{name}": tensor for name, tensor in fitted.places._asdict().items()},
        "shares.log_oddness": fitted.shares.log_oddness,
        "shares.log_share": fitted.shares.log_share,
        "normal.bits_per_dim": torch.from_numpy(fitted.bits_per_dim),
        "normal.scores": torch.from_numpy(fitted.scores),
    }
    return {
        SETTINGS: json.dumps(fields_of(settings), indent=2).encode(),
        NUMBERS: write_tensors(tensors),
    }


def from_files(files: Mapping[str, bytes], folder: Path) -> "tuple[Settings, Fitted]":
    """The settings and what was fitted; DamagedError names a file that holds something else."""
    from realnvp.odd.detector import Fitted
    from realnvp.odd.shares import Shares
    from realnvp.odd.statistics import STATISTICS
    from realnvp.odd.usual import Usual

    again = "it is of another version of realnvp: fit the detector again"
    with damaged_if_invalid():
        settings = parse_record(Settings, files[SETTINGS], folder / SETTINGS)
    tensors = read_tensors(files[NUMBERS], folder / NUMBERS)
    try:
        places = Usual(*(tensors[f"places.{name}"] for name in Usual._fields))
        if places.mean.ndim != 3 or places.whitening.shape != (STATISTICS, STATISTICS):
            raise DamagedError(f"{folder / NUMBERS}: has other statistics; {again}")
        return settings, Fitted(
            places,
            Shares(tensors["shares.log_oddness"], tensors["shares.log_share"]),
            tensors["normal.bits_per_dim"].numpy(),
            tensors["normal.scores"].numpy(),
        )
    except KeyError as error:
        raise DamagedError(f"{folder / NUMBERS}: lacks {error.args[0]}; {again}") from None
