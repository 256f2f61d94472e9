"""Tensors in a file: safetensors, no pickle."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from realnvp.files.records import DamagedError


def write_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file with these tensors."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(stored)


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; DamagedError names the path if it is none."""
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{path}: {error}") from None
