"""A conditional bijection with its condition fixed."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import signature
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def sum_per_example(x: Tensor) -> Tensor:
    """(B,): the sum of each example's entries."""
    return torch.sum(x.flatten(1), dim=1)


def equal_shares(total: Tensor, x: Tensor) -> Tensor:
    """The total of each example, (B,), shared equally among the entries of x, in x's shape."""
    share = total / x[0].numel()
    return share.view(-1, *[1] * (x.ndim - 1)).expand(x.shape)


class Bijection(nn.Module, ABC):
    """An invertible map f of a batch x, shape (B, ...), from data to noise.

    One contract test checks these laws for every subclass and for composed flows:
      z, log_det = f(x)     z.shape == x.shape, log_det.shape == (B,)
      f.inverse(z) == x     in eval mode
      log_det[i] == log |det dz[i]/dx[i]|
      each example is mapped on its own, in eval mode
      f.forward_map(x)[1]   sums to log_det, has x's shape

    They hold for each condition `given`, (B, k). A subclass whose map depends on it takes it as the
    second parameter of `forward` and `_inverse`.
    """

    uses_context = False
    """Whether the map depends on a condition."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.uses_context = "context" in signature(cls.forward).parameters

    def __call__(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = f(x) and log |det dz/dx| of each example, given a condition."""
        if context is None or not self.uses_context:
            return super().__call__(x)
        return super().__call__(x, context)

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = f(x) and log |det dz/dx| of each example."""

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = f(x) and each entry's share of log_det, of x's shape. Here: equal shares."""
        z, log_det = self(x, context)
        return z, equal_shares(log_det, x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """x with f(x) = z. RuntimeError in training mode, where batch norm depends on the batch."""
        if self.training:
            raise RuntimeError("inverse (decode, sample) needs eval mode: call flow.eval() first")
        if context is None or not self.uses_context:
            return self._inverse(z)
        return self._inverse(z, context)  # type: ignore[call-arg]  # `takes_given`: it has one more

    @abstractmethod
    def _inverse(self, z: Tensor) -> Tensor:
        """What a subclass writes: x with f(x) = z."""


class DataDependentInit(Bijection):
    """A bijection whose weights can be set by the first batch that it sees."""

    waits_for_data = True
    """False: `starting` passes this layer over."""

    @abstractmethod
    def initialize_from(self, x: Tensor) -> None:
        """Set the weights by a batch x, (B, C, ...), of all processes together.

        A layer that takes a condition is given it here, too.
        """


@contextmanager
def data_dependent_init(module: nn.Module) -> Iterator[dict[DataDependentInit, RemovableHandle]]:
    """Context: each layer that `starts_from_data` starts from the first batch that reaches it.

    Gives the layers that still wait for their batch, with their hooks.
    """
    waiting: dict[DataDependentInit, RemovableHandle] = {}

    def start(layer: DataDependentInit, inputs: tuple[Tensor, ...]) -> None:
        waiting.pop(layer).remove()
        layer.initialize_from(*inputs)

    for layer in module.modules():
        if isinstance(layer, DataDependentInit) and layer.waits_for_data:
            waiting[layer] = layer.register_forward_pre_hook(start)
    try:
        yield waiting
    finally:
        for handle in waiting.values():
            handle.remove()


class Chain(Bijection):
    """Bijections one after the other: Chain([f, g])(x) is g(f(x))."""

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        for bijection in self.bijections:
            x, term = bijection(x, context)
            log_det = log_det + term
        return x, log_det

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros_like(x)
        for bijection in self.bijections:
            assert isinstance(bijection, Bijection)
            x, terms = bijection.pointwise_log_det(x, context)
            log_det += terms
            del terms  # of a large image they take as much memory as the image
        return x, log_det

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        for bijection in reversed(self.bijections):
            assert isinstance(bijection, Bijection)
            z = bijection.inverse(z, context)
        return z


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
    net: nn.Module, x: Tensor, mask: Tensor, context: Tensor | None = None
) -> Tensor:
    """net(x, mask), computed in the type of the network's weights and returned in x's type.

    So z and log-det keep the type of x. With a condition it is net(x, mask, given).
    """
    dtype = reference_tensor(net, x).dtype
    condition = () if context is None else (context.to(dtype),)
    return net(x.to(dtype), mask, *condition).to(x.dtype)


class Conditioned(Bijection):
    """f(x | c) of one c for all x: a bijection that is not conditional.

    given: (1, k), the numbers of c.
    """

    def __init__(self, bijection: Bijection, context: Tensor) -> None:
        super().__init__()
        self.bijection = bijection
        self.context = nn.Buffer(context, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection(x, self.context.expand(x.shape[0], -1))

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection.pointwise_log_det(x, self.context.expand(x.shape[0], -1))

    def _inverse(self, z: Tensor) -> Tensor:
        return self.bijection.inverse(z, self.context.expand(z.shape[0], -1))
