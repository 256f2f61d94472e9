"""Layers that start from the data they see."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from realnvp.bijections.base import Bijection


@contextmanager
def starting(module: nn.Module) -> Iterator[list[Bijection]]:
    """Within it, the first forward pass lets each part that can, `ActNorm` and `Mixing`, start from what it sees: those parts."""
    parts = [child for child in module.modules() if isinstance(child, Bijection) and child.starts_from_data]
    for part in parts:
        part.starting = True
    try:
        yield parts
    finally:
        for part in parts:
            part.starting = False
