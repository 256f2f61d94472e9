"""A normalizing flow: a bijection and a prior make an exact density (eq 2-3)."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from realnvp.bijections import Chain, data_dependent_init
from realnvp.bijections.base import (
    Bijection,
    Conditioned,
    equal_shares,
    float64_like,
    reference_tensor,
)
from realnvp.bijections.multiscale import side_divisor
from realnvp.config.fields import Config
from realnvp.device import full_precision
from realnvp.flows.context import Classes, Condition
from realnvp.moments import alone
from realnvp.progress import track_slices
from realnvp.random import Purpose, generator

ROWS = 1024  # of a table, computed at once


class Prior(Protocol):
    """The distribution of z: log_prob is (B,), in nats; shape is (C, H, W), or (n, D) of n rows."""

    def log_prob(self, z: Tensor) -> Tensor: ...

    def sample(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor: ...


class StandardNormal(nn.Module):
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return self.pointwise_log_prob(z).flatten(1).sum(1)

    def pointwise_log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, 1) of each entry in nats, of z's shape."""
        return -0.5 * (z.square() + math.log(2 * math.pi))

    def sample(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(generator.standard_normal(tuple(shape)))


def pointwise_log_prob(prior: Prior, z: Tensor) -> Tensor:
    """log p(z) by entry of z: the prior's own, or equal shares of each example's."""
    if isinstance(prior, StandardNormal):
        return prior.pointwise_log_prob(z)
    return equal_shares(prior.log_prob(z), z)


class Flow(nn.Module):
    """The density of x in data units.

    For images x is v + u in [0, levels): pixels v and dequantization noise u ~ U[0, 1).
    z and log-det have the type of x, or of the weights if that is wider; the networks compute in
    the type of the weights. So x.double() has the density and the inverse of a float32 flow
    without rounding between the layers.

    A conditional flow is the density of x given c, p(x | c). All its functions need `context`: one
    c for all x, or c of each. c is the name or index of a class, or columns, (B, k).

    shape: of one x; None: the configuration's, or any.
    condition: the kind of c. None: the flow is not conditional.
    """

    exact = True  # False for a flow that `realnvp.fast` made

    def __init__(
        self,
        bijection: Bijection,
        prior: Prior,
        config: Config | None = None,
        *,
        shape: Sequence[int] | None = None,
        condition: Condition | None = None,
    ) -> None:
        super().__init__()
        self.bijection, self.prior, self.config = bijection, prior, config
        self.shape = config.data.shape if shape is None and config else shape
        self.divisor = side_divisor(bijection)
        self.condition = condition

    def log_prob(self, x: Tensor, context: Any = None) -> Tensor:
        """(B,): log p(x) = log p_Z(f(x)) + log |det df/dx| in nats (eq 3); -inf where p(x) is 0.

        x is (B, C, H, W) or (B, D), in data units. ValueError if x has NaN or does not fit.
        """
        x = self._data(x)
        z, log_det = self.bijection(x, self.embed_context(context, x.shape[0]))
        return self.prior.log_prob(z) + log_det

    forward = log_prob

    def pixel_log_prob(self, x: Tensor, context: Any = None) -> Tensor:
        """(B, H, W): the terms of `log_prob` by pixel, in nats. Of rows: (B, D), by column.

        log p(x) is a sum over the entries of z, each with log N(z) and all log-scales that acted at
        its place. A term without a place, as log |det W| of a linear map, is shared equally.
        """
        x = self._data(x)
        z, terms = self.bijection.pointwise_log_det(x, self.embed_context(context, x.shape[0]))
        terms = terms + pointwise_log_prob(self.prior, z)
        return terms.sum(1) if x.ndim > 2 else terms

    def mixture_log_prob(self, x: Tensor) -> Tensor:
        """(B,): log p(x) = log sum_c p(c) p(x | c) of a class-conditional flow, in nats."""
        return self._joint_log_probs(x).logsumexp(1)

    def class_log_probs(self, x: Tensor) -> Tensor:
        """(B, K): log p(c | x) of each class, by Bayes' rule; log p(c) where each p(x | c) is 0."""
        joint = self._joint_log_probs(x)
        possible = (joint > -math.inf).any(1, keepdim=True)
        return torch.where(possible, joint, self._classes().log_priors.to(joint)).log_softmax(1)

    def _joint_log_probs(self, x: Tensor) -> Tensor:
        """(B, K): log p(c) + log p(x | c)."""
        classes = self._classes()
        return classes.joint([self.log_prob(x, c) for c in range(len(classes.names))])

    def _classes(self) -> Classes:
        if not isinstance(self.condition, Classes):
            raise ValueError("flow: is not class-conditional")
        return self.condition

    def encode(self, x: Tensor, context: Any = None) -> Tensor:
        """z = f(x), of x's shape."""
        x = self._data(x)
        return self.bijection(x, self.embed_context(context, x.shape[0]))[0]

    def decode(self, z: Tensor, context: Any = None) -> Tensor:
        """x = g(z), of z's shape, in data units and not rounded. RuntimeError in training mode."""
        z = self._batch(z)
        return self.bijection.inverse(z, self.embed_context(context, z.shape[0]))

    def condition_on(self, c: Any) -> "Flow":
        """The flow of p(x | c) of one c: not conditional, and with this flow's weights."""
        embedded = self.embed_context(c, 1)
        if embedded is None:
            return self
        fixed = Conditioned(self.bijection, embedded.detach())
        flow = Flow(fixed, self.prior, self.config, shape=self.shape).train(self.training)
        flow.exact = self.exact
        return flow

    def embed_context(self, context: Any, count: int) -> Tensor | None:
        """(count, k): the networks' view of a condition. None: the flow is not conditional."""
        c = self.condition_of_each(context, count)
        return None if self.condition is None else self.condition(c)

    def condition_of_each(self, context: Any, count: int) -> Tensor | None:
        """Classes, (count,), or columns, (count, k). ValueError: c is missing, or needless."""
        if (self.condition is None) != (context is None):
            kind = "unconditional" if self.condition is None else "conditional"
            raise ValueError(f"context: this flow is {kind}")
        return None if self.condition is None else self.condition.parse(context, count)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        shape: Sequence[int] | None = None,
        *,
        context: Any = None,
        temperature: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """(n, *shape): exact samples x = g(temperature * z), z ~ prior, in data units, not rounded.

        Sample i is a function of (seed, i) alone. Samples have no gradients; `decode` has.

        shape: of one x; None: the training data's. Larger images extrapolate (appendix C).
        context: c of all samples, or of each.
        dtype: None: the weights' type.
        """
        shape = self.event_shape(shape)
        dtype = dtype or reference_tensor(self).dtype
        c = self.condition_of_each(context, n)
        parts = []
        for chunk in track_slices(n, batch_that_fits(shape), "samples"):
            z = temperature * self.latents(range(n)[chunk], shape, seed)
            parts.append(self.decode(z, None if c is None else c[chunk]).to(dtype))
        return torch.cat(parts)

    def event_shape(self, shape: Sequence[int] | None = None) -> Sequence[int]:
        """The shape of one x: the argument, or the training data's."""
        if (shape := self.shape if shape is None else shape) is None:
            raise ValueError("shape: missing, this flow has no shape of its own")
        return shape

    def latents(self, indices: range, shape: Sequence[int], seed: int) -> Tensor:
        """(n, *shape): z ~ prior, each a function of the seed and its index."""
        draw = self.prior.sample
        if len(shape) > 1:
            parts = [draw(shape, generator(seed, Purpose.SAMPLE, index=i)) for i in indices]
            return torch.stack(parts).to(float64_like(self))
        # A generator for each row would take longer than all the rest.
        blocks = range(indices.start // ROWS, (indices.stop - 1) // ROWS + 1)
        parts = [draw((ROWS, *shape), generator(seed, Purpose.SAMPLE, index=i)) for i in blocks]
        first = indices.start - ROWS * blocks.start
        return torch.cat(parts)[first : first + len(indices)].to(float64_like(self))

    def _batch(self, x: Tensor) -> Tensor:
        """x, in the weights' type if that is wider. ValueError if it would be broadcast or cut."""
        if not x.is_floating_point():
            raise ValueError(f"x: expected floating-point numbers (pixels: v + u), got {x.dtype}")
        shape = self.shape
        if shape is not None and (x.ndim != 1 + len(shape) or x.shape[1] != shape[0]):
            expected = ", ".join(["B", str(shape[0]), *"HW"[: len(shape) - 1]])
            raise ValueError(f"x: expected shape ({expected}), got {tuple(x.shape)}")
        return x.to(torch.promote_types(x.dtype, reference_tensor(self, x).dtype))

    def _data(self, x: Tensor) -> Tensor:
        """`_batch`; in eval mode ValueError for NaN, and a warning of pixels in other units."""
        x = self._batch(x)
        if self.training or torch.compiler.is_compiling():
            return x
        with suppress(RuntimeError):  # torch.vmap hides the values; an empty batch has none
            largest = x.detach().amax().item()
            if math.isnan(largest):
                raise ValueError("x: has NaN")
            levels = self.config.levels if x.ndim == 4 and self.config else 0
            if levels > 2 and not 1 < largest < 2 * levels:
                warnings.warn(f"x: up to {largest:g}, not v + u in [0, {levels})", stacklevel=3)
        return x


def batch_that_fits(shape: Sequence[int]) -> int:
    """The number of x of this shape to compute at once: 64 images of 64x64, or 1,024 rows."""
    return max(1, 64**3 // math.prod(shape[1:])) if len(shape) > 1 else ROWS


@torch.no_grad()
def initialize_from(flow: Flow, x: Tensor, context: Any = None) -> None:
    """Initialize the layers that depend on data, and the condition, from one process' x.

    Only the layers before the first that does not depend on data see all of x: networks take time.
    """
    if isinstance(flow.condition, Classes):
        flow.condition.count(flow.condition.parse(context, len(x)))
    layers = flow.bijection.bijections if isinstance(flow.bijection, Chain) else [flow.bijection]
    few = max(128, batch_that_fits(x.shape[1:]))
    with alone(), data_dependent_init(flow) as waiting:
        embedded = flow.embed_context(context, len(x))
        for layer in layers:
            if not waiting:
                break
            x = x if layer in waiting else x[:few]
            x, _ = layer(x, None if embedded is None else embedded[: len(x)])


def config_of(flow: Flow) -> Config:
    """The configuration that the flow was built from; ValueError if it has none."""
    if flow.config is None:
        raise ValueError("flow: has no configuration; realnvp.build makes flows that do")
    return flow.config


def refuse_fast(flow: Flow, verb: str) -> None:
    """Refuse a flow that `realnvp.fast` made, by a ValueError. verb: the use of the original."""
    if not flow.exact:
        raise ValueError(f"flow: made by realnvp.fast; {verb} the original")


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Context: eval mode. Afterwards each submodule is in the mode that it was in."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Context: eval mode, no gradients, full precision."""
    with (
        in_eval_mode(module),
        full_precision(),
        torch.no_grad(),
        torch.autocast(reference_tensor(module).device.type, enabled=False),
    ):
        yield
