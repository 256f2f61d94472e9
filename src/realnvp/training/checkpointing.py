"""Time for memory: what the gradient can compute again is not kept."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import MethodType

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from realnvp.bijections import BatchNorm, Coupling
from realnvp.flows.flow import Flow
from realnvp.moments import restore_moments, stored_moments

Layer = Coupling | BatchNorm
"""The layers that are worth computing again: all networks are in them."""


def recompute(flow: Flow) -> Flow:
    """The flow itself, changed: training keeps only the input of each coupling and batch norm.

    The gradient computes each of them a second time. In eval mode nothing changes.
    """
    for module in flow.modules():
        if isinstance(module, Layer):
            module.forward = partial(_recomputed, module)  # type: ignore[method-assign]
    return flow


def once(layer: Layer) -> Callable[..., tuple[Tensor, Tensor]]:
    """The layer's own forward pass, as it is without `recompute`."""
    return MethodType(type(layer).forward, layer)


def _recomputed(layer: Layer, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The forward pass of x, or of x and a condition."""
    if not layer.training:
        return once(layer)(*inputs)
    second = _SecondPass(layer)
    return checkpoint(
        once(layer),
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), second),
    )


class _SecondPass:
    """Context: stored moments are as before the first pass; afterwards as they were on entry."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.before = layer, stored_moments(layer)

    def __enter__(self) -> None:
        self.after = stored_moments(self.layer)
        restore_moments(self.before)

    def __exit__(self, *_: object) -> None:
        restore_moments(self.after)
