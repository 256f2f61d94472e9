"""Image flows with the layers of later flows, and flows of vectors for tables and points."""

from functools import partial

from numpy.typing import ArrayLike
from torch import Tensor, nn

from realnvp.bijections import (
    ActNorm,
    BatchNorm,
    Bijection,
    Chain,
    Coupling,
    FactorOut,
    InvertibleLinear,
    Regression,
    RQSpline,
    SinhArcsinh,
    Squeezed,
    bitwise,
    none_kept,
)
from realnvp.bijections.base import float64_like
from realnvp.config import ModelConfig, coarser
from realnvp.device import as_tensor
from realnvp.flows.context import standardization
from realnvp.flows.flow import Flow, initialize_from
from realnvp.flows.paper import MakeNet, coupling, half_coupling
from realnvp.nets.convnet import MLP, ConvNet
from realnvp.nets.layers import MatrixConv


def modern(model: ModelConfig, channels: int) -> Chain:
    """f with the paper's scales and the layers of later flows (Glow), for x of (C, H, W).

    Each scale repeats act norm, a learned linear map of the channels and a checkerboard coupling at
    half the resolution, then factors half of the result out.

    Before that a last coupling changes the half that is factored out, conditional on the half that
    goes on. The prior of a scale is then a Gaussian conditional on all coarser scales, and all
    latents stay N(0, I).
    """
    net = partial(ConvNet, 2 * channels, model.width, num_blocks=model.num_blocks)
    context_net = partial(net, context=model.context_dim)
    layers: list[Bijection] = []
    for left in reversed(range(model.num_couplings)):
        layers += [
            ActNorm(4 * channels),
            InvertibleLinear(4 * channels),
            half_coupling(model, net if left % 2 else context_net, 4 * channels, flip=False),
        ]
    if model.num_scales == 1:
        return Chain([Squeezed(Chain([*layers, ActNorm(4 * channels)]), by_color=True)])
    prior = [ActNorm(4 * channels), half_coupling(model, context_net, 4 * channels, flip=True)]
    return Chain(
        [
            Squeezed(Chain([*layers, *prior]), by_color=True),
            FactorOut(modern(coarser(model), 2 * channels)),
        ]
    )


def vector(model: ModelConfig, dim: int) -> Chain:
    """f for x of (D,): pairs of couplings with fully connected networks, linear maps between.

    A pair divides the entries by one bit of their index, both ways. First come the data's
    standardization, which is not trained, and their whitening, which is.
    With a condition c, a linear regression on c stands between both, so that a flow starts as the
    Gaussian of its data given c. One column given c is one spline. Given c, a last
    map of each latent follows, which `training.fit.recalibrate` fits.
    """
    layers: list[Bijection] = [*standardization(dim)]
    net = partial(
        MLP,
        dim,
        model.width,
        num_blocks=model.num_blocks,
        sine_std=model.sine_std,
        context=model.context_dim,
    )
    if model.context_dim:
        layers.append(Regression(dim, model.context_dim))
    if dim == 1 and (model.context_dim or model.coupling == "spline"):
        layers += [ActNorm(dim), Coupling(none_kept, net(RQSpline.outputs), RQSpline)]
    else:
        layers += _couplings(model, net, dim)
    if model.context_dim:
        layers.append(SinhArcsinh(dim).requires_grad_(False))
    return Chain(layers)


def _couplings(model: ModelConfig, net: MakeNet, dim: int) -> list[Bijection]:
    layers: list[Bijection] = []
    for i in range(model.num_couplings):
        if i % 2 == 0:
            layers.append(InvertibleLinear(dim, starts_as="rotation" if i else "symmetric"))
        layers.append(coupling(model, partial(bitwise, bit=i // 2, flip=i % 2 == 1), net, dim))
        if model.batch_norm:
            layers.append(BatchNorm(dim, momentum=model.momentum))
    return layers


def matrices(flow: Flow) -> list[Tensor]:
    """The networks' weights that are matrices, (out, in), which Muon trains."""
    return [m.weight for m in flow.modules() if isinstance(m, MatrixConv | nn.Linear)]


def standardize(flow: Flow, rows: ArrayLike, *, context: ArrayLike | None = None) -> Flow:
    """The flow itself, its first layers set to standardize and whiten the rows, (N, D).

    context: c of each row, which is standardized, too.
    """
    initialize_from(flow, as_tensor(rows).to(float64_like(flow)), context)
    return flow
