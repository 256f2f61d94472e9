"""Beside each step of an optimiser: the learning rate, and a moving average of the weights.

The average is often better than the last weights, and never costs a gradient.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """The average of a module's weights over steps.

    decay: the share of the average kept in each step, less in the first steps. 0: no average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(module.named_parameters()) if decay else {}
        self.tensors = {
            name: parameter.detach().clone() for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after this step, counted from 1."""
        if self.tensors:
            torch._foreach_lerp_(
                list(self.tensors.values()),
                [parameter.detach() for parameter in self.parameters.values()],
                1 - min(self.decay, step / (step + 9)),
            )

    @contextmanager
    def used(self) -> Iterator[None]:
        """Context: the module's weights are the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.tensors[name] = self.tensors[name], parameter.data


def rate(progress: float, *, rising: float, decay: float = 1.0) -> float:
    """The learning rate's share of its peak: it rises to 1, and falls to 0 along half a cosine.

    progress: the share of the training that is done, in [0, 1].
    rising: the share of the warmup that is done; above 1 once it is over.
    decay: the last share of the training, in which the rate falls. 0: it never falls.
    """
    falling = min(1.0, (1 - progress) / decay) if decay else 1.0
    return min(1.0, rising) * (0.5 - 0.5 * math.cos(math.pi * falling))
