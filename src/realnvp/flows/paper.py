"""The paper's architecture (sections 3.4 to 3.6), and its penalty."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from realnvp.bijections import (
    Additive,
    Affine,
    BatchNorm,
    Bijection,
    Chain,
    Coupling,
    FactorOut,
    RQSpline,
    Squeezed,
    channelwise,
    checkerboard,
)
from realnvp.bijections.base import reference_tensor
from realnvp.bijections.coupling import Transform
from realnvp.bijections.masks import Mask
from realnvp.config import ModelConfig, coarser
from realnvp.flows.flow import Flow
from realnvp.nets.layers import WeightNormConv
from realnvp.nets.resnet import ChannelSplitNet, ResNet

TRANSFORMS: dict[str, type[Transform]] = {
    "affine": Affine,
    "additive": Additive,
    "spline": RQSpline,
}
MakeNet = Callable[[int], nn.Module]
"""A function from a number of outputs, of each pixel or row, to a network."""


def multiscale(model: ModelConfig, channels: int) -> Chain:
    """f of section 3.6 for x of (C, H, W): eq 10-13 as a recursion over the scales.

    Each scale has three checkerboard couplings, a squeeze and three channel-wise couplings; then
    half of the result is factored out. The last scale has four checkerboard couplings.
    """
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
    net = _resnet(model, channels, see_mask=True)
    layers: list[Bijection] = []
    for i in range(count):
        mask = partial(checkerboard, flip=i % 2 == 1)
        layers.append(coupling(model, mask, net, channels, bound=0.0))
        layers.append(BatchNorm(channels, momentum=model.momentum))
    return layers


def channelwise_couplings(model: ModelConfig, channels: int, count: int) -> list[Bijection]:
    """Couplings that change the channels' second, first, second ... half, each with batch norm."""
    net = _resnet(model, channels // 2)
    layers: list[Bijection] = []
    for i in range(count):
        layers.append(half_coupling(model, net, channels, flip=i % 2 == 1))
        layers.append(BatchNorm(channels, momentum=model.momentum))
    return layers


def half_coupling(model: ModelConfig, net: MakeNet, channels: int, *, flip: bool) -> Coupling:
    """A channel-wise coupling whose network sees the kept half alone.

    It changes the second half. flip: the first.
    """
    return coupling(
        model,
        partial(channelwise, flip=flip),
        lambda c_out: ChannelSplitNet(net(c_out), flip=flip),
        channels // 2,
    )


def coupling(
    model: ModelConfig, mask: Mask, net: MakeNet, channels: int, *, bound: float = 1.0
) -> Coupling:
    """A coupling with the model's transform.

    channels: the number of channels that the network transforms.
    bound: initial value of the bound of the log-scale.
    """
    transform = TRANSFORMS[model.coupling]
    return Coupling(mask, net(transform.outputs * channels), transform, bound=bound)


def l2_penalty(flow: Flow) -> Tensor:
    """Sum of squares of weight norm's trained gains and of the checkerboard couplings' bounds."""
    penalized = [reference_tensor(flow).new_zeros(())]
    for module in flow.modules():
        if isinstance(module, WeightNormConv) and module.gain is not None:
            penalized.append(module.gain)
    for module in flow.modules():
        if isinstance(module, Coupling) and not isinstance(module.net, ChannelSplitNet):
            penalized += [] if module.bound is None else [module.bound]
    return torch.stack([each.square().sum() for each in penalized]).sum()


def _resnet(model: ModelConfig, channels: int, *, see_mask: bool = False) -> MakeNet:
    return partial(
        ResNet,
        channels,
        model.width,
        num_blocks=model.num_blocks,
        momentum=model.momentum,
        see_mask=see_mask,
        context=model.context_dim,
    )
