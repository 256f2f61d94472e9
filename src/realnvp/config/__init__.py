"""What to train on what: frozen dataclasses, the presets, and their JSON. Never imports torch."""

from realnvp.config.errors import nearest
from realnvp.config.fields import (
    MAY_CHANGE,
    TRACKERS,
    Config,
    DataConfig,
    Kind,
    ModelConfig,
    Shape,
    TrainConfig,
    differences,
    flat,
    to_json,
)
from realnvp.config.presets import PAPER, PRESETS, departures, paper_bits_per_dim
from realnvp.config.resolve import (
    check_divisible,
    coarser,
    default_num_scales,
    from_json,
    least_parameters,
    read_config,
    resolve,
    smallest_side,
    validate,
)

__all__ = [
    "MAY_CHANGE",
    "PAPER",
    "PRESETS",
    "TRACKERS",
    "Config",
    "DataConfig",
    "Kind",
    "ModelConfig",
    "Shape",
    "TrainConfig",
    "check_divisible",
    "coarser",
    "default_num_scales",
    "departures",
    "differences",
    "flat",
    "from_json",
    "least_parameters",
    "nearest",
    "paper_bits_per_dim",
    "read_config",
    "resolve",
    "smallest_side",
    "to_json",
    "validate",
]
