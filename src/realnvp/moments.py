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
    """Mean and biased variance of each channel of x, (B, C, ...), to normalise with.

    Training:  mu' = rho mu + (1 - rho) mu_batch, and var' alike (eq 15-16). The gradient flows through the batch term only; the
               stored moments carry none. rho = 0 gives plain batch norm, whose stored moments then decay by .9 a step.
    Evaluation: the stored moments. A fresh module has mean 0 and variance 1.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.0) -> None:
        super().__init__()
        self.momentum = momentum
        self.batches_averaged: int | None = None
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.mean, self.var
        mean, var, _ = self.mixed(*(moment.to(self.mean.dtype) for moment in batch_moments(x)))
        return mean, var

    def mixed(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, float]:
        """mu' and var' of eq 15-16 for a batch with these moments, and their derivative by the batch's, 1 - rho; stores them."""
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
        # New tensors, not changes in place: autograd may still need the old ones. Values that are not finite would poison all
        # later evaluations; where the mean is one of them, the variance is, too. Few kernels: there are a hundred norms and more.
        finite, old = var < math.inf, (self.mean, self.var)
        new = torch._foreach_lerp(old, (mean, var), 1 - decay)
        self.mean, self.var = (torch.where(finite, after, before) for after, before in zip(new, old, strict=True))


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (C,), of x (B, C, ...) over other axes and processes; float32 or better; differentiable."""
    mean, var, _ = pooled(*own_moments(x), count(x))
    return mean, var


def own_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """What `batch_moments` gives, of this process' x alone."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = [axis for axis in range(x.ndim) if axis != 1]
    # Two sums: torch.var_mean is two to eight times slower on a CPU.
    mean = x.sum(axes) / count(x)
    centred = x - mean.view(-1, *[1] * (x.ndim - 2))
    return mean, centred.square().sum(axes) / count(x)


def pooled(mean: Tensor, var: Tensor, numbers: int) -> tuple[Tensor, Tensor, Tensor | int]:
    """Mean and variance over all processes, given those of this one's numbers, and how many numbers they are of; differentiable.

    All processes see what each of them has in one sum, to which each brings a row of its own.
    """
    if not several_processes():
        return mean, var, numbers
    mine = torch.cat([mean, var, mean.new_full((1,), numbers)])
    rows = [mine if i == dist.get_rank() else torch.zeros_like(mine) for i in range(dist.get_world_size())]
    means, variances, counts = torch.split(over_processes(torch.stack(rows)), [len(mean), len(var), 1], dim=1)
    everywhere = counts.sum()
    share = counts / everywhere
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), everywhere


def count(x: Tensor) -> int:
    """How many numbers each channel of x, (B, C, ...), has."""
    return x.numel() // x.shape[1]


def over_processes(x: Tensor) -> Tensor:
    """The sum over all processes, differentiable."""
    summed: Tensor = _AllReduceSum.apply(x) if several_processes() else x  # type: ignore[no-untyped-call]  # torch has no types for it
    return summed


def several_processes() -> bool:
    """Whether a batch is spread over processes."""
    return not _alone.get() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def alone() -> Iterator[None]:
    """Within it, what this process sees is all there is: rows that each process holds, or has alone."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


class _AllReduceSum(torch.autograd.Function):
    """The sum over processes. Each process' loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, gradient)


Stored = list[tuple[MovingMoments, Tensor, Tensor]]
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def stored_moments(module: nn.Module) -> Stored:
    """All stored moments below a module, to be put back with `restore_moments`. They are never changed in place: no copies."""
    return [(child, child.mean, child.var) for child in module.modules() if isinstance(child, MovingMoments)]


def restore_moments(stored: Stored) -> None:
    """Put stored moments back, after a step that is not to count or after `averaging`."""
    for moments, mean, var in stored:
        moments.mean, moments.var = mean, var


@contextmanager
def averaging(module: nn.Module) -> Iterator[None]:
    """Within it, training-mode forward passes store the average over all of them: eq 15-16 with rho = k/(k + 1) at batch k.

    Each layer then sees inputs that are normalised with nearly the final moments of the layers before it.
    """
    stored = stored_moments(module)
    for moments, _, _ in stored:
        moments.batches_averaged = 0
    try:
        yield
    finally:
        for moments, _, _ in stored:
            moments.batches_averaged = None
