"""Flows that start from data, before their first step."""

from typing import Any

import torch
from torch import Tensor

from realnvp.bijections import Chain, starting
from realnvp.flows.flow import Flow, batch_that_fits
from realnvp.flows.given import Classes
from realnvp.tools.moments import alone


@torch.no_grad()
def start_from(flow: Flow, x: Tensor, given: Any = None) -> None:
    """Start the flow's layers from x, the data of one process, and its condition from given.

    The leading layers see all of x, up to the first that does not start from data. The layers
    behind see the first rows only, since networks take time and memory. Layers after the last that
    starts are not computed.
    """
    flow.check_batch(x)
    if isinstance(flow.condition, Classes):
        flow.condition.count(flow.condition.parse(given, len(x)))
    layers = flow.bijection.bijections if isinstance(flow.bijection, Chain) else [flow.bijection]
    few = max(128, batch_that_fits(x.shape[1:]))
    with alone(), starting(flow) as waiting:
        numbers = flow.numbers_of(given, len(x))
        for layer in layers:
            if not waiting:
                break
            x = x if layer in waiting else x[:few]
            x, _ = layer(x, None if numbers is None else numbers[: len(x)])
