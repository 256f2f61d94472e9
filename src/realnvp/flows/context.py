"""The condition c of p(x | c): a class or columns of numbers, embedded for the networks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.bijections import ActNorm, Chain
from realnvp.bijections.base import float64_like
from realnvp.config.fields import Config
from realnvp.device import as_tensor
from realnvp.random import Purpose, generator


class Condition(nn.Module, ABC):
    """The kind of c: `Classes` or `Columns`. forward embeds it for the networks, (B, k)."""

    dims: int  # of one c

    def parse(self, context: Any, count: int) -> Tensor:
        """c of each of `count` x, as a tensor. One c stands for all."""
        c = self._tensor(context)
        c = c[None] if c.ndim == self.dims else c
        return c.expand(count, *c.shape[1:])

    @abstractmethod
    def _tensor(self, context: Any) -> Tensor:
        """c as a tensor of at least `dims` dimensions, on the module's device."""


class Classes(Condition):
    """c is a class: its index, or its name. Networks see it one-hot. log_priors: log p(c), (K,)."""

    dims = 0

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.log_priors = nn.Buffer(torch.full((len(names),), -math.log(len(names))))

    def _tensor(self, context: Any) -> Tensor:
        if not isinstance(context, Tensor):
            values = np.asarray(context)
            if values.dtype.kind in "OU":
                values = np.vectorize(self.names.index, otypes=[np.int64])(values)
            context = as_tensor(values)
        context = context.to(self.log_priors.device)
        return context if context.is_floating_point() else context.long()

    def forward(self, context: Tensor) -> Tensor:
        return F.one_hot(context, len(self.names)).to(self.log_priors.dtype)

    def count(self, context: Tensor) -> None:
        """Set the priors to the classes' frequencies."""
        counts = torch.bincount(context.flatten().cpu(), minlength=len(self.names))
        self.log_priors.copy_((counts.double() / counts.sum()).log())

    def joint(self, log_probs: Sequence[Tensor]) -> Tensor:
        """(B, K): log p(c) + log p(x | c), from the latter of each class, (B,)."""
        return torch.stack([*log_probs], dim=1) + self.log_priors.to(log_probs[0])

    def draw(self, indices: range, seed: int) -> Tensor:
        """Classes of samples of the mixture, by log_priors: functions of the seed and the index."""
        cumulative = self.log_priors.double().exp().cumsum(0).cpu()
        u = [generator(seed, Purpose.CLASS, index=i).random() for i in indices]
        drawn = torch.searchsorted(cumulative, cumulative.new_tensor(u), right=True)
        return drawn.clamp(max=len(cumulative) - 1).to(self.log_priors.device)


class Columns(Condition):
    """c is k columns of numbers, (B, k). Networks see them standardized by the training's rows."""

    dims = 1

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.standardize = Chain(standardization(columns))

    def _tensor(self, context: Any) -> Tensor:
        like = float64_like(self)
        c = context if isinstance(context, Tensor) else as_tensor(context)
        c = c.to(like.device if c.is_floating_point() else like)
        c = c.reshape(-1, 1) if self.columns == 1 else c
        if c.shape[-1] != self.columns:  # torch would broadcast a single column
            raise ValueError(f"context: expected {self.columns} columns, got {tuple(c.shape)}")
        return c

    def forward(self, context: Tensor) -> Tensor:
        return self.standardize(context)[0]


def standardization(columns: int) -> list[ActNorm]:
    """Two layers, not trained, that standardize columns once they are initialized from data.

    In a column of 1.7e9 +- 10 (seconds since 1970) the second layer subtracts the rounding error of
    the first layer's mean, which is float32.
    """
    return [ActNorm(columns, eps=0.0).requires_grad_(False) for _ in range(2)]


def condition_of(config: Config) -> Condition | None:
    """The condition of a flow of a (resolved) configuration. None: not conditional."""
    if not config.model.context_dim:
        return None
    if config.data.class_names:
        return Classes(config.data.class_names)
    return Columns(config.model.context_dim)
