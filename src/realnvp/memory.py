"""How much memory a training will take, without taking it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from realnvp.bijections import Bijection
from realnvp.config import Config
from realnvp.models import build, recompute


def count_parameters(config: Config) -> int:
    """How many numbers the flow of this configuration learns; allocates none of them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def training_memory(config: Config) -> int:
    """Bytes that a training of this (resolved) configuration takes at its peak, about: an estimate for one process.

    Weights, gradients and Adam's two moments, and what autograd keeps of one forward pass, counted on tensors without storage.
    """
    assert config.data.shape is not None
    parts: list[tuple[nn.Module, Tensor]] = []
    with torch.device("meta"):
        flow = build(config).train()
        weights = sum(tensor.numel() for tensor in flow.parameters()) * 4
        x = torch.empty(config.train.batch_size, *config.data.shape)
        if config.train.recompute:
            for module in recompute(flow).modules():
                if isinstance(module, Bijection) and module.recompute:
                    module.register_forward_pre_hook(lambda part, args: parts.append((part, args[0].detach())))
        kept = _kept_for_gradient(flow.log_prob, x)
        if parts:  # their inputs, and one of them at a time in full
            kept += sum(x.nbytes for _, x in parts) + max(_kept_for_gradient(part, x) for part, x in list(parts))
    size = 2 if config.train.precision == "float64" else 1
    return (4 * weights + kept) * size


def _kept_for_gradient(function: Callable[[Tensor], object], x: Tensor) -> int:
    """Bytes of the tensors that autograd keeps of function(x)."""
    kept: dict[int, int] = {}
    tensors: list[Tensor] = []  # keeps them alive, so that no two have the same address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        tensors.append(tensor)
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(x)
    return sum(kept.values())
