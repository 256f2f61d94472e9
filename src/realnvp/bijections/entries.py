"""Between what each entry of x contributes, of x's shape, and the total of each example."""

import torch
from torch import Tensor


def sum_per_example(x: Tensor) -> Tensor:
    """(B,): the sum of each example's entries."""
    return torch.sum(x.flatten(1), dim=1)


def equal_shares(total: Tensor, x: Tensor) -> Tensor:
    """The total of each example, (B,), shared equally among the entries of x, in x's shape."""
    share = total / x[0].numel()
    return share.view(-1, *[1] * (x.ndim - 1)).expand(x.shape)
