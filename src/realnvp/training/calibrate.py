"""Latents that are standard normal on rows that the fit has not seen."""

import copy
from typing import Any

import torch
from torch import Tensor

from realnvp.bijections import Chain, SinhArcsinh
from realnvp.bijections.precision import in_float64
from realnvp.flows.flow import Flow, evaluating

PRIOR_ROWS = 50
"""Few rows say little: so many more count, whose latents are normal already."""


def calibrate(flow: Flow, x: Tensor, given: Any = None) -> None:
    """Fit the flow's last layer, a `SinhArcsinh`, by maximum likelihood of rows held out.

    A flow that knows its training rows by heart is too sure of others: their latents are wider
    than N(0, 1), and intervals hold less than they say. This is the recalibration of quantiles of
    Kuleshov et al. (2018) as a bijection, so that p(x | c) stays a density.

    Without such a layer, or without rows, nothing changes.
    """
    last = last_of(flow)
    if last is None or not len(x):
        return
    with evaluating(flow):
        z = in_float64(last.inverse(flow.encode(x, given)))
    quantiles = torch.special.ndtri(
        (torch.arange(PRIOR_ROWS, device=z.device).to(z) + 0.5) / PRIOR_ROWS
    )
    z = torch.cat([z[z.isfinite().all(1)], quantiles[:, None].expand(-1, z.shape[1])])
    layer = copy.deepcopy(last).to(z).requires_grad_()
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        latents, log_det = layer(z)
        nats = -(flow.prior.log_prob(latents) + log_det).mean()
        nats.backward()  # type: ignore[no-untyped-call]
        return nats

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    if all(weight.isfinite().all() for weight in layer.parameters()):
        last.load_state_dict(layer.state_dict())


def last_of(flow: Flow) -> SinhArcsinh | None:
    """The layer that `calibrate` fits. None: the flow ends otherwise."""
    if not isinstance(flow.bijection, Chain):
        return None
    last = flow.bijection.bijections[-1]
    return last if isinstance(last, SinhArcsinh) else None
