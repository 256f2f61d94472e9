"""The condition c of p(x | c): a class or columns, parsed, and embedded for the networks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from realnvp.bijections import ActNorm, Chain
from realnvp.bijections.base import float64_like
from realnvp.config import Config, TableData, embed_context
from realnvp.random import Purpose, generator


class Condition(nn.Module, ABC):
    """The kind of c: `Classes` or `Columns`."""

    dims: int
    """Dimensions of one c."""

    @abstractmethod
    def parse(self, context: Any, count: int) -> Tensor:
        """c of each of `count` x, as a tensor. One c stands for all.

        ValueError: no such class, or another shape. Values of a GPU's tensor are not checked in
        training, which would wait for the GPU.
        """

    @abstractmethod
    def forward(self, context: Tensor) -> Tensor:
        """(B, k): c as the networks see it."""

    def _may_look(self, context: Tensor) -> bool:
        if torch.compiler.is_compiling() or context.is_meta:
            return False
        return context.device.type == "cpu" or not self.training


class Classes(Condition):
    """c is a class: its index, or its name. Networks see it one-hot.

    log_priors: (K,), log p(c). They start equal.
    """

    dims = 0

    def __init__(self, count: int, names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.names = list(names or map(str, range(count)))
        self.log_priors = nn.Buffer(torch.full((count,), -math.log(count)))

    def parse(self, context: Any, count: int) -> Tensor:
        if not isinstance(context, Tensor):
            values = np.asarray(context)
            if values.dtype.kind in "OU":
                values = np.vectorize(self._index, otypes=[np.int64])(values)
            context = torch.as_tensor(values)
        if context.is_floating_point() or context.dtype == torch.bool:
            raise ValueError(f"context: classes are names or integers, got {context.dtype}")
        c = context.to(self.log_priors.device).long()
        c = c.reshape(1).expand(count) if c.numel() == 1 else c
        if c.shape != (count,):
            raise ValueError(f"context: expected {count} classes, got shape {tuple(c.shape)}")
        if self._may_look(c) and ((c < 0) | (c >= len(self.names))).any():
            raise ValueError(f"context: classes are 0 to {len(self.names) - 1}")
        return c

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"context: no class {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def forward(self, context: Tensor) -> Tensor:
        classes = torch.arange(len(self.names), device=context.device)
        return (context[:, None] == classes).to(self.log_priors.dtype)

    def count(self, context: Tensor) -> None:
        """Set the priors to the frequencies of the classes in a training's data."""
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
    """c is columns of numbers, (B, k). Networks see them standardized by the training's rows.

    The standardization is two layers, as that of x in flows of vectors: weights are float32.
    """

    dims = 1

    def __init__(self, count: int, names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.names = list(names or (f"column {i}" for i in range(count)))
        self.standardize = Chain(standardization(count))

    def parse(self, context: Any, count: int) -> Tensor:
        exact, columns = float64_like(self), len(self.names)
        c = context if isinstance(context, Tensor) else torch.as_tensor(np.array(context))
        c = c.to(exact if not c.is_floating_point() else exact.device)
        if columns == 1 and c.ndim < 2:
            c = c.reshape(-1, 1)
        if c.shape in ((columns,), (1, columns)):
            c = c.expand(count, columns)
        if c.shape != (count, columns):
            expected = f"({count}, {columns}) or ({columns},)"
            raise ValueError(f"context: expected shape {expected}, got {tuple(c.shape)}")
        # A sum that is finite has finite terms, and is quick.
        if self._may_look(c) and not c.sum().isfinite() and not c.isfinite().all():
            raise ValueError("context: has NaN or infinite numbers")
        return c

    def forward(self, context: Tensor) -> Tensor:
        standardized, _ = self.standardize(context)
        return standardized


def standardization(columns: int) -> list[ActNorm]:
    """Two layers, not trained, that standardize columns once they are initialized from data.

    Two, since weights are float32: in a column of 1.7e9 +- 10 (seconds since 1970) the second
    layer subtracts the rounding error of the first layer's mean.
    """
    return [ActNorm(columns, eps=0.0).requires_grad_(False) for _ in range(2)]


def condition_of(config: Config) -> Condition | None:
    """The condition of a flow of a (resolved) configuration. None: not conditional."""
    context = config.model.context_dim
    if not context:
        return None
    if config.data.class_names:
        return Classes(context, config.data.class_names)
    columns = config.data.context_values if isinstance(config.data, TableData) else None
    return Columns(context, embed_context(columns or ()))
