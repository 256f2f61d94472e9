"""Gradient checkpointing: memory for time, layer by layer."""

from contextlib import nullcontext
from functools import partial

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from realnvp.bijections import BatchNorm, Coupling
from realnvp.flows.flow import Flow
from realnvp.moments import restore_moments, stored_moments

Layer = Coupling | BatchNorm
"""The layers that are worth computing again: all networks are in them."""


def recompute(flow: Flow) -> Flow:
    """The flow itself, changed: training keeps only the input of each coupling and batch norm.

    The backward pass computes each of them a second time. In eval mode nothing changes.
    """
    for module in flow.modules():
        if isinstance(module, Layer):
            module.forward = partial(_forward, module)  # type: ignore[method-assign]
    return flow


def _forward(layer: Layer, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's own forward pass, which keeps only its inputs in training mode."""
    own = partial(type(layer).forward, layer)
    if not layer.training:
        return own(*inputs)
    second = _SecondPass(layer)
    return checkpoint(
        own,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), second),
    )


class _SecondPass:
    """Context, for any number of backward passes: the moments of before the first forward pass."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.before = layer, stored_moments(layer)

    def __enter__(self) -> None:
        self.after = stored_moments(self.layer)
        restore_moments(self.before)

    def __exit__(self, *_: object) -> None:
        restore_moments(self.after)
