"""The paper's architecture (sections 3.4 to 3.6), and its penalty."""

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
    SplineCoupling,
    Squeezed,
    channelwise,
    checkerboard,
)
from realnvp.bijections.base import reference_tensor
from realnvp.bijections.masks import Mask
from realnvp.config import ModelConfig, coarser
from realnvp.flows.flow import Flow
from realnvp.nets.layers import WeightNormConv
from realnvp.nets.resnet import ChannelSplitNet, ResNet


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
    net = partial(
        ResNet,
        channels,
        model.width,
        num_blocks=model.num_blocks,
        momentum=model.momentum,
        see_mask=True,
        context=model.context_dim,
    )
    return [
        layer
        for i in range(count)
        for layer in (
            coupling(model, partial(checkerboard, flip=i % 2 == 1), net, channels, bound=0.0),
            BatchNorm(channels, momentum=model.momentum),
        )
    ]


def channelwise_couplings(model: ModelConfig, channels: int, count: int) -> list[Bijection]:
    """Couplings that change the channels' second, first, second ... half, each with batch norm."""
    net = partial(
        ResNet,
        channels // 2,
        model.width,
        num_blocks=model.num_blocks,
        momentum=model.momentum,
        context=model.context_dim,
    )
    return [
        layer
        for i in range(count)
        for layer in (
            half_coupling(model, net, channels, flip=i % 2 == 1),
            BatchNorm(channels, momentum=model.momentum),
        )
    ]


def half_coupling(
    model: ModelConfig, net: Callable[[int], nn.Module], channels: int, *, flip: bool
) -> Bijection:
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
    model: ModelConfig,
    mask: Mask,
    net: Callable[[int], nn.Module],
    channels: int,
    *,
    bound: float = 1.0,
) -> Bijection:
    """A coupling of the model's kind.

    mask: what is kept.
    net: makes a network with so many outputs.
    channels: how many the coupling changes.
    bound: where the bound of the log-scale starts.
    """
    if model.coupling == "additive":
        return AdditiveCoupling(mask, net(channels))
    if model.coupling == "spline":
        return SplineCoupling(mask, net(SplineCoupling.NUMBERS * channels), bound=bound)
    return AffineCoupling(mask, net(2 * channels), bound=bound)


def l2_penalty(flow: Flow) -> Tensor:
    """Sum of squares of weight norm's trained gains and of the checkerboard couplings' bounds."""
    gains = [
        module.gain
        for module in flow.modules()
        if isinstance(module, WeightNormConv) and module.gain is not None
    ]
    bounds = [
        module.bound
        for module in flow.modules()
        if isinstance(module, AffineCoupling) and not isinstance(module.net, ChannelSplitNet)
    ]
    zero = reference_tensor(flow).new_zeros(())
    return torch.stack([each.square().sum() for each in [zero, *gains, *bounds]]).sum()
