"""A flow as a `torch.distributions.Distribution`: a prior, a variational guide, ..."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from realnvp.bijections.base import reference_tensor
from realnvp.flows.flow import Flow


def as_distribution(
    flow: Flow,
    shape: Sequence[int] | None = None,
    *,
    context: Any = None,
    validate_args: bool | None = None,
) -> "FlowDistribution":
    """The distribution of x, in data units; log_prob and rsample have gradients for the weights.

    Samples follow torch's global generator (`torch.manual_seed`) and need the flow in eval mode.

    shape: the event_shape, of one x; None: the training data's.
    context: c of a conditional flow: one, or several, (n,) classes or (n, k) columns, for a
        distribution of batch_shape (n,).
    """
    several = flow.condition is not None and np.ndim(context) > flow.condition.dims
    batch_shape = (len(context),) if several else ()
    c = flow.condition_of_each(context, *batch_shape or (1,))
    if c is not None and not several:
        c = c.squeeze(0)
    return FlowDistribution(flow, flow.event_shape(shape), batch_shape, c, validate_args)


class FlowDistribution(Distribution):
    """The distribution of a flow, of all reals: images, too, are sampled beyond [0, levels)."""

    has_rsample = True
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        flow: Flow,
        event_shape: Sequence[int],
        batch_shape: Sequence[int],
        context: Tensor | None,
        validate_args: bool | None,
    ) -> None:
        self.flow, self.context = flow, context
        super().__init__(Size(batch_shape), Size(event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        dims = len(self.event_shape)
        return constraints.independent(constraints.real, dims)  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        """The distribution of a batch_shape of independent x, each with the flow's density."""
        c = self.context
        if c is not None:
            c = c.expand(*batch_shape, *c.shape[len(self.batch_shape) :])
        return FlowDistribution(self.flow, self.event_shape, batch_shape, c, self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) in nats, (*sample_shape, *batch_shape); value is (..., *event_shape)."""
        if self._validate_args:
            self._validate_sample(value)
        return self._map(self.flow.log_prob, value, ()) + value.new_zeros(self.batch_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch_shape, *event_shape): x = g(z), with gradients for the weights."""
        shape = self._extended_shape(Size(sample_shape))
        count = shape[: len(shape) - len(self.event_shape)].numel()
        seed = int(torch.randint(2**63 - 1, ()))
        z = self.flow.latents(range(count), self.event_shape, seed) if count else torch.empty(0)
        x = self._map(self.flow.decode, z.view(shape), self.event_shape)
        return x.to(reference_tensor(self.flow))

    def _map(self, function: Callable[..., Tensor], x: Tensor, event: Sequence[int]) -> Tensor:
        """Apply a function of (B, *event_shape) to x, (..., *event_shape): (..., *event)."""
        leading, c = x.shape[: x.ndim - len(self.event_shape)], self.context
        if c is not None:
            leading = Size(np.broadcast_shapes(leading, self.batch_shape))
            x = x.expand(*leading, *self.event_shape)
            one = c.shape[len(self.batch_shape) :]
            c = c.expand(*leading, *one).reshape(-1, *one)
        if not leading.numel():
            return x.new_empty((*leading, *event))
        return function(x.reshape(-1, *self.event_shape), c).view((*leading, *event))
