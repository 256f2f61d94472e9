"""Exact probability models of images with real-valued non-volume preserving flows (Dinh, Sohl-Dickstein, Bengio, 2016)."""

import importlib
from typing import TYPE_CHECKING, Any

from realnvp.config import PRESETS, Config, DataConfig, ModelConfig, TrainConfig

if TYPE_CHECKING:
    from realnvp.checkpoint import load_flow, save_flow
    from realnvp.data import quantize
    from realnvp.distributions import as_distribution
    from realnvp.fitting import fit
    from realnvp.flow import Flow
    from realnvp.folded import fast
    from realnvp.likelihood import bits_per_dim
    from realnvp.models import build, vector_flow

__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "Config",
    "DataConfig",
    "Flow",
    "ModelConfig",
    "TrainConfig",
    "as_distribution",
    "bits_per_dim",
    "build",
    "fast",
    "fit",
    "load_flow",
    "quantize",
    "save_flow",
    "vector_flow",
]

# Loaded at first use, so that help and configuration never wait for torch.
_LAZY = {
    "Flow": "flow",
    "as_distribution": "distributions",
    "bits_per_dim": "likelihood",
    "build": "models",
    "fast": "folded",
    "fit": "fitting",
    "load_flow": "checkpoint",
    "quantize": "data",
    "save_flow": "checkpoint",
    "vector_flow": "models",
}


if not TYPE_CHECKING:  # or a type checker would take any misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'realnvp' has no attribute {name!r}")
        return getattr(importlib.import_module(f"realnvp.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
