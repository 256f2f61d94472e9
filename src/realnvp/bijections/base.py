"""The protocol of bijections; how they are chained, conditioned and initialized from data."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Bijection(nn.Module, ABC):
    """An invertible map f of a batch x, shape (B, ...), from data to noise.

    A subclass has `_inverse`, and `forward` or `pointwise_log_det` or both. One contract test
    checks these laws for every subclass and for composed flows:
      z, log_det = f(x, context)           z.shape == x.shape, log_det.shape == (B,)
      f.inverse(z, context) == x           in eval mode
      log_det[i] == log |det dz[i]/dx[i]|
      each example is mapped on its own, in eval mode
      f.pointwise_log_det(x, context)[1]   has x's shape and sums to log_det

    context, (B, k): the embedded condition of each example; None without a condition.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = f(x) and log |det dz/dx| of each example. Default: sums of `pointwise_log_det`."""
        z, terms = self.pointwise_log_det(x, context)
        return z, torch.sum(terms.flatten(1), dim=1)

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = f(x) and the terms of log_det by entry of x. Default: equal shares of `forward`'s."""
        z, log_det = self(x, context)
        return z, equal_shares(log_det, x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """x with f(x) = z. RuntimeError in training mode, where batch norm depends on the batch."""
        if self.training:
            raise RuntimeError("inverse (decode, sample) needs eval mode: call flow.eval() first")
        return self._inverse(z, context)

    @abstractmethod
    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """x with f(x) = z, in eval mode."""


class Chain(Bijection):
    """Bijections one after the other: Chain([f, g])(x) is g(f(x))."""

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections: Any = nn.ModuleList(bijections)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        for bijection in self.bijections:
            x, term = bijection(x, context)
            log_det = log_det + term
        return x, log_det

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros_like(x)
        for bijection in self.bijections:
            x, terms = bijection.pointwise_log_det(x, context)
            log_det += terms
            del terms  # of a large image they take as much memory as the image
        return x, log_det

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        for bijection in reversed(self.bijections):
            z = bijection.inverse(z, context)
        return z


class Conditioned(Bijection):
    """f(x | c) of one c for all x, embedded, (1, k): a bijection without a context."""

    def __init__(self, bijection: Bijection, context: Tensor) -> None:
        super().__init__()
        self.bijection = bijection
        self.context = nn.Buffer(context, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection(x, self.context.expand(x.shape[0], -1))

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection.pointwise_log_det(x, self.context.expand(x.shape[0], -1))

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.bijection.inverse(z, self.context.expand(z.shape[0], -1))


class DataDependentInit(Bijection):
    """A bijection whose weights `data_dependent_init` sets, if it waits for data."""

    waits_for_data = True

    @abstractmethod
    def initialize_from(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set the weights from a batch x, (B, C, ...), of all processes together."""


@contextmanager
def data_dependent_init(module: nn.Module) -> Iterator[dict[DataDependentInit, RemovableHandle]]:
    """Context: the first batch that reaches a layer sets it; yields those that wait, with hooks."""
    waiting: dict[DataDependentInit, RemovableHandle] = {}

    def initialize(layer: DataDependentInit, inputs: tuple[Tensor, ...]) -> None:
        waiting.pop(layer).remove()
        layer.initialize_from(*inputs)

    for layer in module.modules():
        if isinstance(layer, DataDependentInit) and layer.waits_for_data:
            waiting[layer] = layer.register_forward_pre_hook(initialize)
    try:
        yield waiting
    finally:
        for handle in waiting.values():
            handle.remove()


def equal_shares(total: Tensor, x: Tensor) -> Tensor:
    """The total of each example, (B,), shared equally among the entries of x, in x's shape."""
    share = total / x[0].numel()
    return share.view(-1, *[1] * (x.ndim - 1)).expand(x.shape)


def reference_tensor(module: nn.Module, default: Tensor | None = None) -> Tensor:
    """A tensor of the module, for its type and device; the default if it has none."""
    tensors = chain(module.parameters(), module.buffers())
    return next(tensors, torch.empty(0, device="cpu") if default is None else default)


def float64_like(module: nn.Module) -> Tensor:
    """An empty float64 tensor on the module's device.

    z and log-det are float64 in evaluation and sampling, whatever the type of the networks: the
    inverse then calls them with the numbers of the forward pass, so that their rounding cancels.
    """
    return torch.empty(0, dtype=torch.float64, device=reference_tensor(module).device)


def in_network_dtype(
    net: nn.Module, x: Tensor, mask: Tensor, context: Tensor | None = None
) -> Tensor:
    """net(x, mask), or net(x, mask, context), in x's type; computed in the type of the weights."""
    dtype = reference_tensor(net, x).dtype
    condition = () if context is None else (context.to(dtype),)
    return net(x.to(dtype), mask, *condition).to(x.dtype)
