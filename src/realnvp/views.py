"""The views of an image that a training with augmentation takes for equally likely, and the density averaged over them."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations, product

import torch
from torch import Tensor

from realnvp.config import DataConfig, Shape

View = Callable[[Tensor], Tensor]
"""(B, C, H, W) -> the same: a permutation of the pixels, so that it changes no volume."""
MOST = 1000


def views_of(data: DataConfig, shape: Shape) -> list[View]:
    """All combinations of data.flip, data.turn and data.recolour: 1 to 48 views of colour images, first the image itself.

    They are a group. ValueError if turns do not keep this shape, or if there are more than MOST.
    """
    channels, height, width = shape
    if data.turn and height != width:
        raise ValueError(f"data.turn: is for square images, these are {height}x{width}")
    count = (1 + data.flip) * (4 if data.turn else 1) * (math.factorial(channels) if data.recolour else 1)
    if count > MOST:
        raise ValueError(f"data.recolour: {channels} channels have {count} views in all; {MOST} are the most")
    mirrors = (False, True) if data.flip else (False,)
    orders = permutations(range(channels)) if data.recolour else [tuple(range(channels))]
    return [
        partial(_view, mirror=mirror, turns=turns, order=list(order))
        for order, turns, mirror in product(orders, range(4 if data.turn else 1), mirrors)
    ]


def _view(x: Tensor, *, mirror: bool, turns: int, order: list[int]) -> Tensor:
    return torch.rot90(x.flip(3) if mirror else x, turns, dims=(2, 3))[:, order]


def averaged(log_prob: Callable[[Tensor], Tensor], x: Tensor, views: Sequence[View]) -> Tensor:
    """(B,), nats: log of the mean of p(T x) over the views T, which is a density too, since no T changes a volume."""
    return torch.stack([log_prob(view(x)) for view in views]).logsumexp(0) - math.log(len(views))
