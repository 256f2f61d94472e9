"""Exact probability models of images and tables with Real NVP flows (Dinh et al., 2016)."""

import importlib
from typing import TYPE_CHECKING, Any

from realnvp.config.fields import Config, ImageData, ModelConfig, TableData, TrainConfig
from realnvp.config.presets import PRESETS

if TYPE_CHECKING:
    from realnvp import anomaly as anomaly
    from realnvp import codec as codec
    from realnvp.data.dataset import quantize
    from realnvp.evaluation.likelihood import bits_per_dim
    from realnvp.flows.build import build, vector_flow
    from realnvp.flows.copies import fast
    from realnvp.flows.distribution import as_distribution
    from realnvp.flows.flow import Flow
    from realnvp.io.pretrained import load_flow, save_flow
    from realnvp.training.fit import fit

__version__ = "1.0.0"
__all__ = [
    "PRESETS",
    "Config",
    "Flow",
    "ImageData",
    "ModelConfig",
    "TableData",
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
    "Flow": "flows.flow",
    "as_distribution": "flows.distribution",
    "bits_per_dim": "evaluation.likelihood",
    "build": "flows.build",
    "fast": "flows.copies",
    "fit": "training.fit",
    "load_flow": "io.pretrained",
    "quantize": "data.dataset",
    "save_flow": "io.pretrained",
    "vector_flow": "flows.build",
}
_SUBPACKAGES = ("anomaly", "codec")


if not TYPE_CHECKING:  # or a type checker would take any misspelled name for one of these

    def __getattr__(name: str) -> Any:
        if name in _SUBPACKAGES:
            return importlib.import_module(f"realnvp.{name}")
        if name not in _LAZY:
            raise AttributeError(f"module 'realnvp' has no attribute {name!r}")
        return getattr(importlib.import_module(f"realnvp.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
