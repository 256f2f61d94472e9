"""What a flow is given: c of p(x | c), checked, and as the numbers that the networks see."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from realnvp.bijections import ActNorm, Chain
from realnvp.bijections.base import float64_like
from realnvp.config import Config, nearest
from realnvp.config.errors import count_of, enumerated
from realnvp.config.resolve import context_columns_of, embed_context
from realnvp.device import as_tensor
from realnvp.random import Purpose, generator


class Condition(nn.Module, ABC):
    """The kind of c that a flow is given: a class, or columns."""

    dims: int
    """Dimensions of one c."""

    @abstractmethod
    def parse(self, context: Any, count: int) -> Tensor:
        """c of each of `count` x, as a tensor. One c stands for all. ValueError: it makes no sense.

        Values of a GPU's tensor are looked at in eval mode only, since training would wait.
        """

    @property
    @abstractmethod
    def wanted(self) -> str:
        """Words for what c can be."""

    @abstractmethod
    def forward(self, context: Tensor) -> Tensor:
        """(B, k): what the networks see of c."""

    @abstractmethod
    def example(self, x: Tensor) -> Tensor:
        """A c for each x, as whoever traces a flow needs it."""

    def may_look(self, context: Tensor) -> bool:
        """Whether the values of this tensor are to be checked."""
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
        c = _tensor(context, names=self._index).to(self.log_priors.device)
        if c.is_floating_point() or c.is_complex() or c.dtype == torch.bool:
            raise ValueError(f"given: classes are names or integers, got {c.dtype}")
        c = c.long()  # torch compares no other unsigned integers than uint8
        if c.numel() == 1:
            c = c.reshape(1).expand(count)
        if c.ndim != 1 or c.shape[0] != count:
            raise ValueError(
                f"given: expected a class for all, or {count} classes, got shape {tuple(c.shape)}"
            )
        if self.may_look(c):
            for end in torch.aminmax(c):
                if not 0 <= int(end) < len(self.names):
                    raise ValueError(f"given: there is no class of index {int(end)}; {self.wanted}")
        return c

    def forward(self, context: Tensor) -> Tensor:
        classes = torch.arange(len(self.names), device=context.device)
        return (context[:, None] == classes).to(self.log_priors.dtype)

    def example(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def count(self, context: Tensor) -> None:
        """Let the priors be the shares of the classes in a training's data."""
        counts = torch.bincount(context.flatten().cpu(), minlength=len(self.names))
        self.log_priors.copy_((counts.double() / counts.sum()).log())

    def joint(self, log_probs: Sequence[Tensor]) -> Tensor:
        """(B, K): log p(c) + log p(x | c), of the latter, (B,), of each class."""
        return torch.stack([*log_probs], dim=1) + self.log_priors.to(log_probs[0])

    def draw(self, indices: range, seed: int) -> Tensor:
        """Classes of samples of the mixture, by log_priors: functions of the seed and the index."""
        shares = self.log_priors.double().exp().cumsum(0).cpu()
        u = [generator(seed, Purpose.CLASS, index=i).random() for i in indices]
        drawn = torch.searchsorted(shares, shares.new_tensor(u), right=True)
        return drawn.clamp(max=len(shares) - 1).to(self.log_priors.device)

    def _index(self, name: str) -> int:
        if name not in self.names:
            hint = nearest(name, self.names)
            raise ValueError(f"given: there is no class {name!r}{hint}; {self.wanted}")
        return self.names.index(name)

    @property
    def wanted(self) -> str:
        names, more = self.names[:12], len(self.names) - 12
        return f"the classes are {', '.join(names)}" + (f" and {more} more" if more > 0 else "")


class Columns(Condition):
    """c is columns of numbers, (B, k). Networks see them standardised by the training's rows.

    The standardisation is two layers, as that of x in flows of vectors: weights are float32.
    """

    dims = 1

    def __init__(self, count: int, names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.names = list(names or (f"column {i}" for i in range(count)))
        self.standardize = Chain(standardization(count))

    def parse(self, context: Any, count: int) -> Tensor:
        exact, columns = float64_like(self), len(self.names)
        c = _tensor(context).to(exact.device)
        if c.is_complex():
            raise ValueError(f"given: columns are real numbers, got {c.dtype}")
        if not c.is_floating_point():
            c = c.to(exact)
        if columns == 1 and c.shape in ((), (count,)):
            c = c.reshape(-1, 1)
        if c.ndim == 1 and c.shape[0] == columns:
            c = c[None]
        if c.ndim == 2 and c.shape[0] == 1:
            c = c.expand(count, -1)
        if c.shape != (count, columns):
            raise ValueError(
                f"given: expected ({count}, {columns}) numbers, or ({columns},) for all, "
                f"got shape {tuple(c.shape)}"
            )
        # A sum that is finite has finite terms. It is the quickest look.
        if self.may_look(c) and not c.sum().isfinite() and len(bad := (~c.isfinite()).nonzero()):
            row, column = bad[0].tolist()
            raise ValueError(
                f"given: row {row}, {self.names[column]}: must be finite, got {c[row, column]:g}"
            )
        return c

    def example(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), len(self.names))

    @property
    def wanted(self) -> str:
        return f"c is {count_of(len(self.names), 'column')} of numbers, {enumerated(self.names)}"

    def forward(self, context: Tensor) -> Tensor:
        numbers, _ = self.standardize(context)
        return numbers


def part_of(c: Tensor | None, rows: Any) -> tuple[Tensor, ...]:
    """c of some x, as the arguments that follow them: `log_prob(x[rows], *part_of(c, rows))`."""
    return () if c is None else (c[rows],)


def _tensor(context: Any, names: Callable[[str], int] | None = None) -> Tensor:
    """A tensor of numbers, from whatever numpy takes for an array of them.

    names: the number of each text. None: texts are refused.
    """
    if isinstance(context, Tensor):
        return context
    try:
        values = np.asarray(context)
        if values.dtype.kind == "O":
            values = values.astype(str if names else float)
    except (TypeError, ValueError):
        raise ValueError("given: is no array of numbers") from None
    if values.dtype.kind == "U" and names:
        values = np.array([names(str(name)) for name in values.flat]).reshape(values.shape)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"given: must be numbers, got {values.dtype}")
    return as_tensor(values)


def standardization(columns: int) -> list[ActNorm]:
    """Two layers, not trained, that standardise columns once they have started from data.

    Two, since weights are float32: in a column of 1.7e9 +- 10 (seconds since 1970) the second
    layer subtracts what rounding left of the mean.
    """
    return [ActNorm(columns, eps=0.0).requires_grad_(False) for _ in range(2)]


def condition_of(config: Config) -> Condition | None:
    """What a flow of a (resolved) configuration is given. None: nothing."""
    context = config.model.context_dim
    if not context:
        return None
    if config.data.classes:
        return Classes(context, config.data.class_names)
    columns = context_columns_of(config.data.context_columns, config.data.context_values)
    return Columns(context, embed_context(columns))
