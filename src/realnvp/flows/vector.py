"""Flows of vectors, for tables and points, which start as the Gaussian of their data."""

from collections.abc import Callable
from functools import partial

from numpy.typing import ArrayLike
from torch import nn

from realnvp.bijections import (
    ActNorm,
    BatchNorm,
    Bijection,
    Chain,
    Elementwise,
    Mixing,
    Regression,
    SinhArcsinh,
    bitwise,
)
from realnvp.bijections.precision import float64_like
from realnvp.config import ModelConfig
from realnvp.flows.flow import Flow
from realnvp.flows.given import standardisation
from realnvp.flows.paper import coupling
from realnvp.flows.start import start_from
from realnvp.networks.modern import MLP
from realnvp.tools.arrays import as_tensor


def vector(model: ModelConfig, dim: int) -> Chain:
    """f for x of (D,): pairs of couplings with fully connected networks, a learned mixing between.

    A pair divides the entries by one bit of their index, both ways. First come the data's
    standardisation, which is not trained, and their whitening, which is.
    Given c, a linear regression on c stands between both, so that a flow starts as the Gaussian of
    its data given c. One column, given others, is one spline. A calibrated flow ends with a map of
    each latent, which `training.calibrate` fits.
    """
    layers: list[Bijection] = [*standardisation(dim)]
    net = partial(
        MLP,
        dim,
        model.width,
        num_blocks=model.num_blocks,
        frequency=model.frequency,
        given=model.given,
    )
    if model.given:
        layers.append(Regression(dim, model.given))
    if dim == 1 and (model.given or model.coupling == "spline"):
        layers += [ActNorm(dim), Elementwise(net(Elementwise.NUMBERS))]
    else:
        layers += _couplings(model, net, dim)
    if model.calibrated:
        layers.append(SinhArcsinh(dim).requires_grad_(False))
    return Chain(layers)


def _couplings(model: ModelConfig, net: Callable[[int], nn.Module], dim: int) -> list[Bijection]:
    layers: list[Bijection] = []
    for i in range(model.num_couplings):
        if i % 2 == 0:
            layers.append(Mixing(dim, starts_as="rotation" if i else "symmetric"))
        layers.append(coupling(model, partial(bitwise, bit=i // 2, flip=i % 2 == 1), net, dim))
        if model.batch_norm:
            layers.append(BatchNorm(dim, momentum=model.momentum))
    return layers


def standardise(flow: Flow, rows: ArrayLike, *, given: ArrayLike | None = None) -> Flow:
    """The flow itself, its first layers set to standardise and whiten the rows, (N, D).

    given: c of each row, which is standardised, too.
    """
    start_from(flow, as_tensor(rows).to(float64_like(flow)), given)
    return flow
