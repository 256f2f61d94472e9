"""The modern architecture, and the weights that Muon is for."""

from functools import partial

from torch import Tensor, nn

from realnvp.bijections import ActNorm, Bijection, Chain, FactorOut, Mixing, Squeezed
from realnvp.config import ModelConfig, coarser
from realnvp.flows.flow import Flow
from realnvp.flows.paper import half_coupling
from realnvp.networks.layers import MatrixConv
from realnvp.networks.modern import ConvNet


def modern(model: ModelConfig, channels: int) -> Chain:
    """f with the paper's scales and the layers of later flows (Glow), for x of (C, H, W).

    Each scale repeats act norm, learned mixing and a checkerboard coupling at half the resolution,
    then factors half of the result out.

    Before that a last coupling changes the half that is factored out, given the half that goes on.
    So the prior of a scale is a Gaussian conditional on all coarser scales, and all latents stay
    N(0, I).
    """
    net = partial(ConvNet, 2 * channels, model.width, num_blocks=model.num_blocks)
    given = partial(net, given=model.given)
    layers: list[Bijection] = []
    for left in reversed(range(model.num_couplings)):
        layers += [
            ActNorm(4 * channels),
            Mixing(4 * channels),
            half_coupling(
                model, net if left % model.given_every else given, 4 * channels, flip=False
            ),
        ]
    if model.num_scales == 1:
        return Chain([Squeezed(Chain([*layers, ActNorm(4 * channels)]), by_colour=True)])
    prior = [ActNorm(4 * channels), half_coupling(model, given, 4 * channels, flip=True)]
    return Chain(
        [
            Squeezed(Chain([*layers, *prior]), by_colour=True),
            FactorOut(modern(coarser(model), 2 * channels)),
        ]
    )


def matrices(flow: Flow) -> list[Tensor]:
    """The networks' weights that are matrices, (out, in), which Muon trains."""
    return [m.weight for m in flow.modules() if isinstance(m, MatrixConv | nn.Linear)]
