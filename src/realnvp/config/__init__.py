"""What to train on what: frozen dataclasses, the presets, and their JSON. Never imports torch."""

from realnvp.config.fields import (
    MAY_CHANGE,
    Config,
    ContextColumn,
    DataConfig,
    DecodeOptions,
    ImageData,
    ModelConfig,
    Shape,
    TableData,
    TrainConfig,
    embed_context,
)
from realnvp.config.json import differences, flat, from_json, parse_json, read_config, to_json
from realnvp.config.presets import PAPER, PRESETS, departures, paper_bits_per_dim
from realnvp.config.resolve import (
    check_divisible,
    coarser,
    default_num_scales,
    resolve,
    smallest_side,
)

__all__ = [
    "MAY_CHANGE",
    "PAPER",
    "PRESETS",
    "Config",
    "ContextColumn",
    "DataConfig",
    "DecodeOptions",
    "ImageData",
    "ModelConfig",
    "Shape",
    "TableData",
    "TrainConfig",
    "check_divisible",
    "coarser",
    "default_num_scales",
    "departures",
    "differences",
    "embed_context",
    "flat",
    "from_json",
    "paper_bits_per_dim",
    "parse_json",
    "read_config",
    "resolve",
    "smallest_side",
    "to_json",
]
