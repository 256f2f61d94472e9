"""Gradient checkpointing: memory for time, layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from realnvp.bijections import BatchNorm, Coupling
from realnvp.flows.flow import Flow
from realnvp.moments import Stored, restore_moments, stored_moments

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
    second = _second_pass(layer, stored_moments(layer))
    return checkpoint(
        own,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), second),
    )


@contextmanager
def _second_pass(layer: Layer, before: Stored) -> Iterator[None]:
    """Context: batch norm's moments are as before the first pass; then as they were on entry."""
    after = stored_moments(layer)
    restore_moments(before)
    try:
        yield
    finally:
        restore_moments(after)
