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
    """f with what later flows found (Glow), in the paper's frame, for x of (C, H, W).

    Each scale works at half the resolution: act norm, learned mixing and a checkerboard coupling,
    many times. Then half of the result is factored out.

    Before that, the half that is factored out is changed once more, given the half that goes on. So
    its prior is a Gaussian conditional on all that is coarser, and all latents stay N(0, I).
    """
    net = partial(ConvNet, 2 * channels, model.width, num_blocks=model.num_blocks)
    layers: list[Bijection] = []
    for _ in range(model.num_couplings):
        layers += [
            ActNorm(4 * channels),
            Mixing(4 * channels),
            half_coupling(model, net, 4 * channels, flip=False),
        ]
    if model.num_scales == 1:
        return Chain([Squeezed(Chain([*layers, ActNorm(4 * channels)]), by_colour=True)])
    prior = [ActNorm(4 * channels), half_coupling(model, net, 4 * channels, flip=True)]
    return Chain(
        [
            Squeezed(Chain([*layers, *prior]), by_colour=True),
            FactorOut(modern(coarser(model), 2 * channels)),
        ]
    )


def matrices(flow: Flow) -> list[Tensor]:
    """The networks' weights that are matrices, (out, in): Muon's."""
    return [m.weight for m in flow.modules() if isinstance(m, MatrixConv | nn.Linear)]
