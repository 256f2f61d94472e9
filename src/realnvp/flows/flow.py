"""A normalizing flow: a bijection and a prior make an exact density (eq 2-3)."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, compiler, nn

from realnvp.bijections import Chain, data_dependent_init
from realnvp.bijections.base import (
    Bijection,
    Conditioned,
    equal_shares,
    float64_like,
    reference_tensor,
)
from realnvp.bijections.multiscale import side_divisor
from realnvp.config import Config
from realnvp.config.errors import ParameterError, as_levels, in_order
from realnvp.config.fields import AT_LEAST_ZERO, check_number
from realnvp.device import full_precision
from realnvp.flows.context import Classes, Condition
from realnvp.moments import alone
from realnvp.progress import chunks
from realnvp.random import Purpose, generator


def check_type(x: object) -> None:
    """ValueError, with the line that mends it, if x is no tensor of real numbers."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return
    dtype = str(getattr(x, "dtype", "no type"))
    if "uint" in dtype:
        remedy = "pixels v: realnvp.bits_per_dim(flow, x), which adds the noise u"
    elif isinstance(x, Tensor):
        remedy = "x.double()"
    elif isinstance(x, np.ndarray):
        remedy = "torch.from_numpy(x)"
    else:
        remedy = "torch.tensor(x)"
    raise ValueError(
        f"the flow takes floating-point tensors (pixels: v + u), got {type(x).__name__} of "
        f"{dtype}: {remedy}"
    )


def warn_of_floats(x: Tensor, config: Config | None) -> None:
    """Warn if images can only be floats in 0..1 or -1..1, for a flow of many grey levels."""
    levels = (config and config.data.levels) or 0
    if levels < 4 or x.ndim != 4 or compiler.is_compiling():
        return
    with suppress(RuntimeError):  # under vmap no value can be looked at
        if x.numel() and x.detach().abs().max().item() <= 1:
            mended = as_levels("x", levels, negative=x.detach().min().item() < 0)
            warnings.warn(
                f"x: no value is outside [-1, 1], but the flow is of grey levels 0 to {levels - 1}:"
                f" {mended}, then realnvp.bits_per_dim(flow, v) or "
                "flow.log_prob(v + torch.rand(v.shape))",
                stacklevel=4,
            )


@torch.no_grad()
def initialize_from(flow: "Flow", x: Tensor, context: Any = None) -> None:
    """Start the flow's layers from x, the data of one process, and its condition from given.

    The leading layers see all of x, up to the first that does not start from data. The layers
    behind see the first rows only, since networks take time and memory. Layers after the last that
    starts are not computed.
    """
    flow.check_batch(x)
    if isinstance(flow.condition, Classes):
        flow.condition.count(flow.condition.parse(context, len(x)))
    layers = flow.bijection.bijections if isinstance(flow.bijection, Chain) else [flow.bijection]
    few = max(128, batch_that_fits(x.shape[1:]))
    with alone(), data_dependent_init(flow) as waiting:
        numbers = flow.embed_context(context, len(x))
        for layer in layers:
            if not waiting:
                break
            x = x if layer in waiting else x[:few]
            x, _ = layer(x, None if numbers is None else numbers[: len(x)])


ROWS = 1024  # of a table, computed at once


class Prior(Protocol):
    """The distribution of z."""

    def log_prob(self, z: Tensor) -> Tensor:
        """(B,): nats."""

    def sample(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Draw z of this shape: a single latent for images, (C, H, W), or many rows, (n, D)."""


class Flow(nn.Module):
    """The density of x in data units.

    For images x is v + u in [0, levels): pixels v and dequantization noise u ~ U[0, 1).
    z and log-det have the type of x, which is at least the type of the weights; the networks
    compute in the type of the weights. So x.double() gives the density and the inverse of a float32
    flow without rounding between the layers.

    A conditional flow is the density of x given c, p(x | c). All its functions then need `given`:
    one c for all x, or c of each. c is the name or index of a class, or columns, (B, k).

    config: what the flow was built from.
    shape: of one x. None: the configuration's data.shape, or any shape if that is None, too.
    condition: what c is. None: the flow is not conditional.
    """

    exact = True
    """False for what `realnvp.fast` or `guided` made: its numbers are not to be reported."""
    made_by = ""
    """What made a flow that is not exact."""
    _looked = False  # at the units of a batch

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
        self.bijection = bijection
        self.prior = prior
        self.config = config
        self.shape = config.data.shape if shape is None and config else shape
        self.divisor = side_divisor(bijection)
        self.condition = condition

    def log_prob(self, x: Tensor, context: Any = None) -> Tensor:
        """(B,): log p(x) = log p_Z(f(x)) + log |det df/dx| in nats (eq 3).

        x is (B, C, H, W) or (B, D), in data units. -inf where the density is zero. ValueError if
        the shape does not fit.
        """
        self._check_data(x)
        z, log_det = self.bijection(x, self.embed_context(context, x.shape[0]))
        return self.prior.log_prob(z) + log_det

    forward = log_prob

    def pixel_log_prob(self, x: Tensor, context: Any = None) -> Tensor:
        """(B, H, W): what each pixel contributes to `log_prob`, in nats. Of rows: (B, D), columns.

        The sum is log_prob, exactly: log p(x) is a sum over the entries of z, each with log N(z)
        and all log-scales that acted at its place. Costs as much as log_prob.
        A term without a place, as log |det W| of a mixing, is shared equally.
        """
        self._check_data(x)
        z, terms = self.bijection.pointwise_log_det(x, self.embed_context(context, x.shape[0]))
        terms = terms + prior_map(self.prior, z)
        return terms.sum(1) if x.ndim > 2 else terms

    def mixture_log_prob(self, x: Tensor) -> Tensor:
        """(B,): log p(x) = log sum_c p(c) p(x | c) of a flow given classes, in nats."""
        return self._joint_log_probs(x).logsumexp(1)

    def class_log_probs(self, x: Tensor) -> Tensor:
        """(B, K): log p(c | x) of each class, by Bayes' rule."""
        return self._joint_log_probs(x).log_softmax(1)

    def _joint_log_probs(self, x: Tensor) -> Tensor:
        """(B, K): log p(c) + log p(x | c)."""
        if not isinstance(self.condition, Classes):
            raise ValueError("this flow is not given classes, so it has no mixture of them")
        each = [self.log_prob(x, context=c) for c in range(len(self.condition.names))]
        return self.condition.joint(each)

    def encode(self, x: Tensor, context: Any = None) -> Tensor:
        """z = f(x), of x's shape."""
        self._check_data(x)
        return self.bijection(x, self.embed_context(context, x.shape[0]))[0]

    def decode(self, z: Tensor, context: Any = None) -> Tensor:
        """x = g(z), of z's shape, in data units and not rounded. RuntimeError in training mode."""
        self.check_batch(z)
        return self.bijection.inverse(z, self.embed_context(context, z.shape[0]))

    def condition_on(self, c: Any) -> "Flow":
        """The flow of p(x | c) of one c: not conditional, and with this flow's weights."""
        numbers = self.embed_context(c, 1)
        if numbers is None:
            return self
        fixed = Conditioned(self.bijection, numbers.detach())
        flow = Flow(fixed, self.prior, self.config, shape=self.shape).train(self.training)
        flow.exact, flow.made_by = self.exact, self.made_by
        return flow

    def embed_context(self, context: Any, count: int) -> Tensor | None:
        """(count, k): what the networks see of a condition. None: the flow is not conditional."""
        c = self.condition_of_each(context, count)
        return None if self.condition is None else self.condition(c)

    def condition_of_each(self, context: Any, count: int) -> Tensor | None:
        """c of each of so many x: classes, (count,), or columns, (count, k).

        None: the flow is not conditional.
        ValueError: c is missing, is not what the flow is given, or is not one for each x.
        """
        if self.condition is None:
            if context is not None:
                raise ValueError("given: this flow is not conditional")
            return None
        if context is None:
            raise ValueError(
                f"given: is missing; this flow is of p(x | c): {self.condition.wanted}"
            )
        return self.condition.parse(context, count)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        shape: Sequence[int] | None = None,
        *,
        context: Any = None,
        temperature: float = 1.0,
        seed: int = 0,
        first: int = 0,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """(n, *shape): exact samples x = g(temperature * z), z ~ prior, in data units, not rounded.

        No gradients, as torch.distributions' sample; `decode` has them.
        Sample i is a function of (seed, first + i): chunks with first = 0, 64, 128 ... are the
        samples of one large call.

        n: how many.
        shape: of one x; None: the training data's. Larger images extrapolate (appendix C).
        given: c of all samples, or of each.
        temperature: what z is multiplied by.
        seed, first: which samples.
        dtype: None: the weights' type.
        """
        shape = self.sample_shape(shape)
        if not isinstance(n, int | np.integer):
            raise ValueError(f"n: how many samples, a whole number, got {n!r}; one has `shape`")
        if n < 1:
            raise ValueError(f"n: must be at least 1, got {n}")
        temperature = check_number("temperature", temperature, float, AT_LEAST_ZERO)
        first = check_number("first", first, int, AT_LEAST_ZERO)
        dtype = dtype or reference_tensor(self).dtype
        indices = range(first, first + n)
        c = self.condition_of_each(context, n)
        return torch.cat(
            [
                self.decode(
                    temperature * self.latents(indices[chunk], shape, seed),
                    None if c is None else c[chunk],
                ).to(dtype)
                for chunk in chunks(n, batch_that_fits(shape))
            ]
        )

    def sample_shape(self, shape: Sequence[int] | None = None) -> Sequence[int]:
        """The shape of one x: the given one, else the training data's. ValueError if both lack."""
        shape = self.shape if shape is None else shape
        if shape is None:
            raise ValueError("shape: this flow has no training shape, so give one")
        if np.ndim(shape) != 1:
            raise ParameterError("shape", f"expected (C, H, W) or (D,), got {shape!r}")
        return shape

    shape_of_one = sample_shape  # its name in version 0.1.0

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

    def _check_data(self, x: Tensor) -> None:
        """`check_batch`; warns once of floats in 0..1 if the flow is of grey levels.

        Only in eval mode: no step of a training waits for the look.
        """
        self.check_batch(x)
        if not (self._looked or self.training):
            self._looked = True
            warn_of_floats(x, self.config)

    def check_batch(self, x: Tensor) -> None:
        """ValueError if x is no batch for this flow: by its type, its device or its shape."""
        check_type(x)
        mine = reference_tensor(self, x)
        if torch.promote_types(x.dtype, mine.dtype) != x.dtype:
            raise ValueError(
                f"the flow is of {mine.dtype}, the data {x.dtype}: bring one to the other with .to,"
                f" x.to({mine.dtype})"
            )
        if x.device != mine.device:
            raise ValueError(
                f"the flow is on {mine.device}, the data {x.device}: bring one to the other with "
                f".to, x.to({str(mine.device)!r})"
            )
        if self.shape is not None:
            channels, *sides = self.shape
            if x.ndim != 2 + len(sides) or x.shape[1] != channels or x.shape[0] < 1:
                raise ValueError(
                    f"expected a batch of shape (B, {channels}{', H, W' if sides else ''}), "
                    f"got {tuple(x.shape)}{in_order('x', x.shape, self.shape, numpy=False)}"
                )
        if x.ndim == 4 and any(side % self.divisor or not side for side in x.shape[2:]):
            raise ValueError(
                f"images of {'x'.join(map(str, x.shape[2:]))}: "
                f"sides must be divisible by {self.divisor}"
            )


def batch_that_fits(shape: Sequence[int]) -> int:
    """How many x of this shape to compute at once, so that memory stays bounded.

    64 images of 64x64, more if they are smaller, fewer if larger. 1,024 rows of a table, (D,): then
    Python's share of the time is small, and the hidden units still fit into caches.
    """
    return max(1, 64**3 // math.prod(shape[1:])) if len(shape) > 1 else ROWS


def config_of(flow: Flow) -> Config:
    """The configuration that the flow was built from; ValueError if it has none, or is no flow."""
    check_is_flow(flow)
    if flow.config is None:
        raise ValueError("flow.config: this flow has none; `realnvp.build` makes flows that do")
    return flow.config


class StandardNormal(nn.Module):
    """N(0, I). A prior is anything with these two methods."""

    def log_prob(self, z: Tensor) -> Tensor:
        """(B,): log N(z; 0, I) in nats."""
        return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def pixel_log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, 1) of each entry in nats, of z's shape."""
        return -0.5 * (z.square() + math.log(2 * math.pi))

    def sample(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """z of this shape, float64."""
        return torch.from_numpy(generator.standard_normal(tuple(shape)))


def prior_map(prior: Prior, z: Tensor) -> Tensor:
    """log p(z) as a sum over the entries of z: the prior's own `log_prob_map`, or equal shares."""
    if own := getattr(prior, "log_prob_map", None):
        terms: Tensor = own(z)
        return terms
    return equal_shares(prior.log_prob(z), z)


def check_is_flow(flow: object) -> None:
    """ParameterError: it is no flow; the name of one, perhaps."""
    if not isinstance(flow, Flow):
        raise ParameterError(
            "flow",
            f"expected a Flow, as realnvp.load_flow or build gives one, got {type(flow).__name__}",
        )


def refuse_fast(flow: Flow, verb: str) -> None:
    """ValueError if `realnvp.fast` or `guided` made the flow.

    verb: what to do with the original instead.
    """
    check_is_flow(flow)
    if not flow.exact:
        raise ValueError(
            f"this flow was made by {flow.made_by}: {verb} the flow that it was made from"
        )


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Context: eval mode. Afterwards each submodule is in the mode that it was in.

    Whoever uses it knows the units of its batches: `Flow` does not look at them. Threads that share
    a module need it in eval mode before: each puts back what it found.
    """
    modes = [(child, child.training) for child in module.modules()]
    flows = [(child, child._looked) for child in module.modules() if isinstance(child, Flow)]
    for flow, _ in flows:
        flow._looked = True
    module.eval()
    try:
        yield
    finally:
        for flow, looked in flows:
            flow._looked = looked
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
