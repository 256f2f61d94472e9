"""Views: the ways in which training shows an image, taken for equally likely, and their density."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations, product

import torch
from torch import Tensor

from realnvp.config import DataConfig, Shape
from realnvp.config.errors import ParameterError

View = Callable[[Tensor], Tensor]
"""(B, C, H, W) -> (B, C, H, W): permutes pixels and channels, so it changes no volume."""
MOST_CHANNELS = 6
"""Most channels that data.recolour may permute: 6 have 720 orders."""


def several_views(data: DataConfig, shape: Shape) -> bool:
    """Whether training showed an image of this shape in more ways than one."""
    return data.flip or data.turn or (data.recolour and shape[0] > 1)


def views_of(data: DataConfig, shape: Shape) -> list[View]:
    """All combinations of data.flip, data.turn and data.recolour: 2 to 48 views of colour images.

    They form a group; the first view is the image itself. ValueError if there is no other view, if
    turns do not keep this shape, or if there are more than MOST_CHANNELS channels to permute.
    """
    channels, height, width = shape
    if data.turn and height != width:
        raise ParameterError("views", f"turned images must be square, these are {height}x{width}")
    if data.recolour and channels > MOST_CHANNELS:
        raise ParameterError("views", f"{channels} channels have too many orders")
    if not several_views(data, shape):
        raise ParameterError(
            "views", "training shows such an image as it is (data.flip, data.turn, data.recolour)"
        )
    orders = [*permutations(range(channels))] if data.recolour else [tuple(range(channels))]
    return [
        partial(_view, mirror=mirror, turns=turns, order=list(order))
        for order, turns, mirror in product(
            orders, range(4 if data.turn else 1), (False, True) if data.flip else (False,)
        )
    ]


def _view(x: Tensor, *, mirror: bool, turns: int, order: list[int]) -> Tensor:
    return torch.rot90(x.flip(3) if mirror else x, turns, dims=(2, 3))[:, order]


def averaged(log_prob: Callable[[Tensor], Tensor], x: Tensor, views: Sequence[View]) -> Tensor:
    """(B,), nats: log of the mean of p(T x) over the views T.

    The mean is a density, too, since no T changes a volume.
    """
    return torch.stack([log_prob(view(x)) for view in views]).logsumexp(0) - math.log(len(views))
