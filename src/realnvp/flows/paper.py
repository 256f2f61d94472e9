"""The paper's architecture, written as its text (sections 3.4 to 3.6), and its penalty."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from realnvp.bijections import (
    AdditiveCoupling,
    AffineCoupling,
    BatchNorm,
    Bijection,
    Chain,
    FactorOut,
    Squeezed,
    channelwise,
    checkerboard,
)
from realnvp.bijections.masks import Mask
from realnvp.bijections.precision import reference_tensor
from realnvp.config import ModelConfig, coarser
from realnvp.flows.flow import Flow
from realnvp.networks.layers import WeightNormConv
from realnvp.networks.resnet import KeptHalf, ResNet


def multiscale(model: ModelConfig, channels: int) -> Chain:
    """f of section 3.6: eq 10-13 as a recursion over the scales."""
    if model.num_scales == 1:
        return Chain(checkerboard_couplings(model, channels, 4))
    further = coarser(model)
    return Chain(
        [
            *checkerboard_couplings(model, channels, 3),
            Squeezed(Chain(channelwise_couplings(further, 4 * channels, 3))),
            FactorOut(multiscale(further, 2 * channels)),
        ]
    )


def checkerboard_couplings(model: ModelConfig, channels: int, count: int) -> list[Bijection]:
    """Couplings with alternating checkerboards, each followed by batch norm of its whole output."""
    layers: list[Bijection] = []
    for i in range(count):
        net = partial(ResNet, channels, model.width, num_blocks=model.num_blocks, momentum=model.momentum, see_mask=True)
        mask = partial(checkerboard, flip=i % 2 == 1)
        layers += [coupling(model, mask, net, channels, bound=0.0), BatchNorm(channels, momentum=model.momentum)]
    return layers


def channelwise_couplings(model: ModelConfig, channels: int, count: int) -> list[Bijection]:
    """Couplings that change the second, the first, the second half of the channels ..., each followed by batch norm."""
    layers: list[Bijection] = []
    for i in range(count):
        net = partial(ResNet, channels // 2, model.width, num_blocks=model.num_blocks, momentum=model.momentum)
        layers += [half_coupling(model, net, channels, flip=i % 2 == 1), BatchNorm(channels, momentum=model.momentum)]
    return layers


def half_coupling(model: ModelConfig, net: Callable[[int], nn.Module], channels: int, *, flip: bool) -> Bijection:
    """A channel-wise coupling that changes the second half, with flip the first; its network sees the other half alone."""
    return coupling(model, partial(channelwise, flip=flip), lambda c_out: KeptHalf(net(c_out), flip=flip), channels // 2)


def coupling(model: ModelConfig, mask: Mask, net: Callable[[int], nn.Module], channels: int, *, bound: float = 1.0) -> Bijection:
    """The model's kind of coupling; net makes a network with so many outputs, and channels is how many the coupling changes."""
    if model.coupling == "additive":
        return AdditiveCoupling(mask, net(channels))
    return AffineCoupling(mask, net(2 * channels), bound=bound)


def l2_penalty(flow: Flow) -> Tensor:
    """The sum of squares of the weight norm's trained gains and of the checkerboard couplings' bounds."""
    gains = [m.gain for m in flow.modules() if isinstance(m, WeightNormConv) and m.gain is not None]
    bounds = [m.bound for m in flow.modules() if isinstance(m, AffineCoupling) and not isinstance(m.net, KeptHalf)]
    squares = [parameter.square().sum() for parameter in [*gains, *bounds]]
    return torch.stack([reference_tensor(flow).new_zeros(()), *squares]).sum()
