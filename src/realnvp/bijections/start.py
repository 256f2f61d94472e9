"""Layers that start from data, and when they do."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from realnvp.bijections.base import Bijection


class StartsFromData(Bijection):
    """A bijection whose weights can be set by the first batch that it sees."""

    starts_from_data = True
    """False: `starting` passes this layer over."""

    @abstractmethod
    def start_from(self, x: Tensor) -> None:
        """Set the weights by a batch x, (B, C, ...), of all processes together.

        A layer that takes a condition is given it here, too.
        """


@contextmanager
def starting(module: nn.Module) -> Iterator[dict[StartsFromData, RemovableHandle]]:
    """Context: each layer that `starts_from_data` starts from the first batch that reaches it.

    Gives the layers that still wait for their batch, with their hooks.
    """
    waiting: dict[StartsFromData, RemovableHandle] = {}

    def start(layer: StartsFromData, inputs: tuple[Tensor, ...]) -> None:
        waiting.pop(layer).remove()
        layer.start_from(*inputs)

    for layer in module.modules():
        if isinstance(layer, StartsFromData) and layer.starts_from_data:
            waiting[layer] = layer.register_forward_pre_hook(start)
    try:
        yield waiting
    finally:
        for handle in waiting.values():
            handle.remove()
