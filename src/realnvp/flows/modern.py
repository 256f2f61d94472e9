"""What later flows found, in the paper's frame, and the weights that Muon is for."""

from functools import partial

from torch import Tensor, nn

from realnvp.bijections import ActNorm, Bijection, Chain, FactorOut, Mixing, Squeezed
from realnvp.config import ModelConfig, coarser
from realnvp.flows.flow import Flow
from realnvp.flows.paper import half_coupling
from realnvp.networks.layers import MatrixConv
from realnvp.networks.modern import ConvNet


def modern(model: ModelConfig, channels: int) -> Chain:
    """What later flows found (Glow), in the paper's frame: checkerboard couplings at half the resolution, learned mixing.

    The half that is factored out is changed once more, given the half that goes on: that is a Gaussian prior of it, conditional
    on all that is coarser, written as a coupling, so that all latents are N(0, I) as ever.
    """
    net = partial(ConvNet, 2 * channels, model.width, num_blocks=model.num_blocks)
    layers: list[Bijection] = []
    for _ in range(model.num_couplings):
        layers += [ActNorm(4 * channels), Mixing(4 * channels), half_coupling(model, net, 4 * channels, flip=False)]
    if model.num_scales == 1:
        return Chain([Squeezed(Chain([*layers, ActNorm(4 * channels)]), by_colour=True)])
    prior = [ActNorm(4 * channels), half_coupling(model, net, 4 * channels, flip=True)]
    further = modern(coarser(model), 2 * channels)
    return Chain([Squeezed(Chain([*layers, *prior]), by_colour=True), FactorOut(further)])


def matrices(flow: Flow) -> list[Tensor]:
    """The networks' weights that are matrices, (out, in): what Muon is for."""
    layers = [module for module in flow.modules() if isinstance(module, MatrixConv | nn.Linear)]
    return [layer.weight for layer in layers]
