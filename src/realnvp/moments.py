"""The mean and variance of batch norm: eq 15-16, over the global batch, stored for evaluation."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

EPS = 1e-4


class MovingMoments(nn.Module):
    """Mean and biased variance of each channel of x, (B, C, ...), to normalize with.

    Training: mu' = rho mu + (1 - rho) mu_batch, and var' alike (eq 15-16). The gradient flows
    through the batch term only; the stored moments carry none. rho = 0 is plain batch norm,
    whose stored moments then decay by .9 a step.

    Evaluation: the stored moments. A fresh module has mean 0 and variance 1.
    """

    def __init__(self, channels: int, *, momentum: float = 0.0) -> None:
        super().__init__()
        self.momentum = momentum
        self.batches_averaged: int | None = None
        self.mean: Tensor = nn.Buffer(torch.zeros(channels))
        self.var: Tensor = nn.Buffer(torch.ones(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.mean, self.var
        mean, var = (moment.to(self.mean.dtype) for moment in batch_moments(x))
        return self.moving(mean, var)[:2]

    def moving(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, float]:
        """mu', var' and 1 - rho of eq 15-16 for a batch's mean and variance; stores mu' and var'.

        1 - rho is the derivative of mu' by the batch's mean, and of var' by its variance.
        """
        momentum, decay = self.momentum, self.momentum or 0.9
        if self.batches_averaged is not None:
            momentum = decay = self.batches_averaged / (self.batches_averaged + 1)
            self.batches_averaged += 1
        old_mean, old_var = self.mean, self.var
        self._store(mean.detach(), var.detach(), decay)
        if momentum == 0:
            return mean, var, 1.0
        return old_mean.lerp(mean, 1 - momentum), old_var.lerp(var, 1 - momentum), 1 - momentum

    @torch.no_grad()
    def _store(self, mean: Tensor, var: Tensor, decay: float) -> None:
        # New tensors, not changes in place: autograd may still need the old ones. Non-finite values
        # are not stored: they would poison all later evaluations. The variance is not finite where
        # the mean is not. Few kernels, since a flow has a hundred norms and more.
        finite, old = var < math.inf, (self.mean, self.var)
        new = torch._foreach_lerp(old, (mean, var), 1 - decay)
        self.mean, self.var = (
            torch.where(finite, after, before) for after, before in zip(new, old, strict=True)
        )


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (C,), of x (B, C, ...) over all other axes and all processes.

    float32 or better; differentiable.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = [axis for axis in range(x.ndim) if axis != 1]
    # Two sums: torch.var_mean is two to eight times slower on a CPU.
    mean = x.sum(axes) / count(x)
    var = (x - per_channel(mean, x)).square().sum(axes) / count(x)
    return pooled(mean, var, count(x))[:2]


def pooled(mean: Tensor, var: Tensor, numbers: int) -> tuple[Tensor, Tensor, Tensor | int]:
    """Mean, variance and count of all processes' numbers, from this process' own; differentiable.

    One sum over processes gathers all rows: a process fills its row, the other rows are zero.
    """
    if not several_processes():
        return mean, var, numbers
    mine = torch.cat([mean, var, mean.new_full((1,), numbers)])
    rank, processes = dist.get_rank(), dist.get_world_size()
    rows = [mine if i == rank else torch.zeros_like(mine) for i in range(processes)]
    sizes = [len(mean), len(var), 1]
    means, variances, counts = torch.split(over_processes(torch.stack(rows)), sizes, dim=1)
    everywhere = counts.sum()
    share = counts / everywhere
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), everywhere


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """The values, (C,), of x's type and with as many axes: (C, 1, 1) beside x (B, C, H, W)."""
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


def count(x: Tensor) -> int:
    """How many numbers each channel of x, (B, C, ...), has."""
    return x.numel() // x.shape[1]


def over_processes(x: Tensor) -> Tensor:
    """The sum of x over all processes, differentiable."""
    return _AllReduceSum.apply(x) if several_processes() else x  # type: ignore[no-untyped-call]


class _AllReduceSum(torch.autograd.Function):
    """The sum over processes. Every process' loss depends on it, so gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, gradient)


_alone: ContextVar[bool] = ContextVar("alone", default=False)


def several_processes() -> bool:
    """Whether a batch is spread over processes."""
    started = not _alone.get() and dist.is_available() and dist.is_initialized()
    return started and dist.get_world_size() > 1


@contextmanager
def alone() -> Iterator[None]:
    """Context: take moments over this process' x alone, even where there are several processes."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


Stored = list[tuple[MovingMoments, Tensor, Tensor]]


def stored_moments(module: nn.Module) -> Stored:
    """All stored moments below a module, for `restore_moments`. No copies: steps replace them."""
    all_moments = [child for child in module.modules() if isinstance(child, MovingMoments)]
    return [(moments, moments.mean, moments.var) for moments in all_moments]


def restore_moments(stored: Stored) -> None:
    """Put stored moments back: after a step that does not count, or after `averaging`."""
    for moments, mean, var in stored:
        moments.mean, moments.var = mean, var


@contextmanager
def averaging(module: nn.Module) -> Iterator[None]:
    """Context: training-mode forward passes store the average of all their batches' moments.

    That is eq 15-16 with rho = k/(k + 1) at batch k = 0, 1, ... So each layer sees inputs that are
    normalized with nearly the final moments of the layers before it.
    """
    stored = stored_moments(module)
    for moments, _, _ in stored:
        moments.batches_averaged = 0
    try:
        yield
    finally:
        for moments, _, _ in stored:
            moments.batches_averaged = None
