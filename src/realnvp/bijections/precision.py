"""Which type computes what: z and log-det have the type of x, the networks have their own."""

from itertools import chain

import torch
from torch import Tensor, nn


def reference_tensor(module: nn.Module, default: Tensor | None = None) -> Tensor:
    """A tensor of the module, for its type and device.

    default: what a module without tensors gives. None: an empty tensor on the CPU.
    """
    tensors = chain(module.parameters(), module.buffers())
    return next(tensors, torch.empty(0, device="cpu") if default is None else default)


def float64_like(module: nn.Module) -> Tensor:
    """An empty float64 tensor on the module's device; float32 on Apple's, which lacks float64.

    z and log-det are kept in float64 when we evaluate, sample or draw, whatever the networks' type.
    The inverse then calls the networks with the numbers of the forward pass, so their own rounding
    does not matter. One image in 10^4 has a number that the networks' type rounds to the other
    neighbour on the way back. float64 costs little, for z has few channels.
    """
    device = reference_tensor(module).device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.empty(0, dtype=dtype, device=device)


def in_float64(x: Tensor) -> Tensor:
    """x in float64: on its device, or on the CPU if the device, Apple's, lacks float64."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def in_the_networks_dtype(
    net: nn.Module, x: Tensor, mask: Tensor, given: Tensor | None = None
) -> Tensor:
    """net(x, mask), computed in the type of the network's weights and returned in x's type.

    So z and log-det keep the type of x. With a condition it is net(x, mask, given).
    """
    dtype = reference_tensor(net, x).dtype
    condition = () if given is None else (given.to(dtype),)
    return net(x.to(dtype), mask, *condition).to(x.dtype)
