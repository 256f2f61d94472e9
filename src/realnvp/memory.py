"""How much memory a training will take, without taking it."""

import torch
from torch import Tensor

from realnvp.config import Config
from realnvp.models import build


def count_parameters(config: Config) -> int:
    """How many numbers the flow of this configuration learns; allocates none of them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def training_memory(config: Config) -> int:
    """Bytes that a training of this (resolved) configuration takes at its peak, about: an estimate for one process.

    Weights, gradients and Adam's two moments, and what autograd keeps of one forward pass, counted on tensors without storage.
    """
    assert config.data.shape is not None
    kept: dict[int, int] = {}
    tensors: list[Tensor] = []  # keeps them alive, so that no two have the same address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        tensors.append(tensor)
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        flow = build(config).train()
        weights = sum(tensor.numel() for tensor in flow.parameters()) * 4
        x = torch.empty(config.train.batch_size, *config.data.shape)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            flow.log_prob(x)
    size = 2 if config.train.precision == "float64" else 1
    return (4 * weights + sum(kept.values())) * size
