"""The dictionary that the contract test runs over: name -> a maker of (bijection, example batch),
all in float64.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from realnvp.bijections import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    BatchNorm,
    Bijection,
    Chain,
    Conditioned,
    Dequantisation,
    Elementwise,
    FactorOut,
    InvertibleLinear,
    JointDequantisation,
    Logit,
    ObliqueDequantisation,
    Regression,
    SinhArcsinh,
    SplineCoupling,
    Squeezed,
    channelwise,
    checkerboard,
)
from realnvp.config import Config, ImageData, ModelConfig
from realnvp.flows.build import build, vector_flow
from realnvp.moments import averaging
from realnvp.nets.convnet import MLP, ConvNet
from realnvp.nets.resnet import ChannelSplitNet, ResNet

GIVEN = 3
"""Numbers of the condition of conditional cases."""

Case = Callable[[], tuple[Bijection, Tensor]]


def drawn(case: Case, seed: int = 0) -> tuple[Bijection, Tensor]:
    """The case's bijection and batch; its weights do not depend on what was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return case()


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def pixels(*shape: int, levels: int = 256) -> Tensor:
    return (
        torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * levels
    )


def moved(bijection: Bijection, x: Tensor) -> Bijection:
    """float64, eval mode, weights away from their start (at c = 0 errors hide), and moments that
    do not quite fit.
    """
    bijection.double().train()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in bijection.parameters():
            parameter.add_(
                0.3 * (torch.rand(parameter.shape, dtype=parameter.dtype, generator=random) - 0.3)
            )
        with averaging(bijection):
            bijection(x)
        for buffer in bijection.buffers():
            buffer.mul_(1 + 0.2 * torch.rand(buffer.shape, dtype=buffer.dtype, generator=random))
    return bijection.eval()


def resnet(channels: int, out: int, *, see_mask: bool) -> ResNet:
    return ResNet(channels, 6, out, num_blocks=1, see_mask=see_mask)


def checkerboard_coupling(channels: int, *, flip: bool = False) -> AffineCoupling:
    return AffineCoupling(
        partial(checkerboard, flip=flip), resnet(channels, 2 * channels, see_mask=True), bound=0.0
    )


def channel_coupling(channels: int, *, flip: bool = False) -> AffineCoupling:
    net = ChannelSplitNet(resnet(channels // 2, channels, see_mask=False), flip=flip)
    return AffineCoupling(partial(channelwise, flip=flip), net)


def learned_noise(
    channels: int, *, levels: int = 256, kind: type[Dequantisation] = Dequantisation
) -> Dequantisation:
    net = ConvNet(4 * channels, 4, 4 * kind.outputs(channels), num_blocks=1)
    return kind(net, levels=levels)


def image_flow(
    channels: int, height: int, width: int, num_scales: int, *, context: int = 0, **fields: Any
) -> Bijection:
    model = ModelConfig(
        **{"num_scales": num_scales, "width": 4, "num_blocks": 1, "num_couplings": 2} | fields
    )
    names = tuple(map(str, range(context))) or None
    data = ImageData(shape=(channels, height, width), classes=context > 0, class_names=names)
    return build(Config(data=data, model=model)).bijection


def context(bijection: Bijection) -> Conditioned:
    return Conditioned(bijection, normal(1, GIVEN))


CASES: dict[str, Case] = {
    "affine checkerboard": lambda: (checkerboard_coupling(1), normal(3, 1, 4, 4)),
    "affine checkerboard flipped, colour": lambda: (
        checkerboard_coupling(3, flip=True),
        normal(2, 3, 4, 4),
    ),
    "affine checkerboard, odd size": lambda: (checkerboard_coupling(2), normal(2, 2, 3, 5)),
    "affine channelwise": lambda: (channel_coupling(4), normal(2, 4, 4, 4)),
    "affine channelwise flipped": lambda: (channel_coupling(4, flip=True), normal(2, 4, 3, 3)),
    "additive checkerboard": lambda: (
        AdditiveCoupling(checkerboard, resnet(1, 1, see_mask=True)),
        normal(2, 1, 4, 4),
    ),
    "additive channelwise": lambda: (
        AdditiveCoupling(channelwise, ChannelSplitNet(resnet(2, 2, see_mask=False), flip=False)),
        normal(2, 4, 3, 3),
    ),
    "batch norm": lambda: (BatchNorm(3), normal(4, 3, 2, 3)),
    "act norm": lambda: (ActNorm(3), normal(4, 3, 2, 3)),
    "act norm of vectors": lambda: (ActNorm(3), normal(4, 3)),
    "logit": lambda: (Logit(), pixels(3, 2, 3, 3)),
    "logit of 17 levels": lambda: (Logit(alpha=0.1, levels=17), pixels(3, 1, 4, 4, levels=17)),
    "squeezed": lambda: (Squeezed(channel_coupling(4)), normal(2, 1, 4, 6)),
    "factored out": lambda: (FactorOut(checkerboard_coupling(2)), normal(2, 1, 4, 6)),
    "chain": lambda: (
        Chain([checkerboard_coupling(1), BatchNorm(1), checkerboard_coupling(1, flip=True)]),
        normal(3, 1, 4, 4),
    ),
    "vectors of 1": lambda: (vector_flow(1, width=8).bijection, normal(3, 1)),
    "vectors of 5, batch norm": lambda: (
        vector_flow(5, width=8, batch_norm=True).bijection,
        normal(4, 5),
    ),
    "additive vectors of 2": lambda: (
        vector_flow(2, width=8, coupling="additive").bijection,
        normal(4, 2),
    ),
    "mixing": lambda: (InvertibleLinear(3), normal(2, 3, 2, 2)),
    "mixing of vectors": lambda: (InvertibleLinear(4), normal(3, 4)),
    "squeezed by colour": lambda: (
        Squeezed(channel_coupling(4), by_colour=True),
        normal(2, 1, 4, 6),
    ),
    "modern 1x4x4, 1 scale": lambda: (
        image_flow(1, 4, 4, 1, architecture="modern"),
        pixels(3, 1, 4, 4),
    ),
    "modern 3x8x4, 2 scales": lambda: (
        image_flow(3, 8, 4, 2, architecture="modern"),
        pixels(2, 3, 8, 4),
    ),
    "dequantization": lambda: (learned_noise(2), pixels(3, 2, 4, 6)),
    "dequantization, joint": lambda: (
        learned_noise(3, kind=JointDequantisation),
        pixels(3, 3, 4, 6),
    ),
    "dequantization, oblique": lambda: (
        learned_noise(3, kind=ObliqueDequantisation),
        pixels(3, 3, 4, 6),
    ),
    "modern 3x8x8, 2 scales, variational dequantization": lambda: (
        image_flow(3, 8, 8, 2, architecture="modern", dequantization="variational"),
        pixels(2, 3, 8, 8),
    ),
    "modern 2x8x8, autoregressive dequantization": lambda: (
        image_flow(2, 8, 8, 1, architecture="modern", dequantization="autoregressive"),
        pixels(2, 2, 8, 8),
    ),
    "modern 3x8x8, oblique dequantization": lambda: (
        image_flow(3, 8, 8, 1, architecture="modern", dequantization="oblique"),
        pixels(2, 3, 8, 8),
    ),
    "modern additive 3x8x8, 2 scales, variational dequantization": lambda: (
        image_flow(
            3, 8, 8, 2, architecture="modern", coupling="additive", dequantization="variational"
        ),
        pixels(2, 3, 8, 8),
    ),
    "modern additive 1x8x8, 3 scales": lambda: (
        image_flow(1, 8, 8, 3, architecture="modern", coupling="additive"),
        pixels(2, 1, 8, 8),
    ),
    "image flow 1x4x4, 1 scale": lambda: (image_flow(1, 4, 4, 1), pixels(3, 1, 4, 4)),
    "image flow 1x4x4, 2 scales": lambda: (image_flow(1, 4, 4, 2), pixels(3, 1, 4, 4)),
    "image flow 3x4x4, 2 scales": lambda: (image_flow(3, 4, 4, 2), pixels(2, 3, 4, 4)),
    "image flow 3x8x8, 3 scales": lambda: (image_flow(3, 8, 8, 3), pixels(2, 3, 8, 8)),
    "image flow 1x8x4, momentum": lambda: (
        image_flow(1, 8, 4, 2, momentum=0.9),
        pixels(2, 1, 8, 4),
    ),
    "nice 3x4x4, 2 scales": lambda: (
        image_flow(3, 4, 4, 2, coupling="additive"),
        pixels(2, 3, 4, 4),
    ),
    "additive checkerboard, given": lambda: (
        context(AdditiveCoupling(checkerboard, ResNet(1, 6, 1, num_blocks=1, context=GIVEN))),
        normal(2, 1, 4, 4),
    ),
    "vectors of 1, given": lambda: (
        context(vector_flow(1, context=GIVEN, width=8).bijection),
        normal(3, 1),
    ),
    "spline checkerboard": lambda: (
        SplineCoupling(
            checkerboard,
            resnet(2, 2 * (3 * 4 + 1), see_mask=True),
        ),
        3 * normal(2, 2, 3, 4),
    ),
    "regression": lambda: (context(Regression(3, GIVEN)), normal(4, 3)),
    "sinh-arcsinh": lambda: (SinhArcsinh(3), 3 * normal(4, 3, 2)),
    "vectors of 2, calibrated": lambda: (
        vector_flow(2, width=8).bijection,
        normal(3, 2),
    ),
    "elementwise planes, given": lambda: (
        context(Elementwise(MLP(2, 6, 2 * Elementwise.NUMBERS, num_blocks=1, context=GIVEN))),
        3 * normal(3, 2, 3, 4),
    ),
    "vector of 1, spline": lambda: (
        vector_flow(1, width=8, coupling="spline").bijection,
        4 * normal(9, 1),
    ),
    "vectors of 3, spline": lambda: (
        vector_flow(3, width=8, num_couplings=4, coupling="spline").bijection,
        2 * normal(4, 3),
    ),
    "vectors of 5, given, batch norm": lambda: (
        context(vector_flow(5, context=GIVEN, width=8, batch_norm=True, sine_std=0).bijection),
        normal(4, 5),
    ),
    "image flow 3x4x4, 2 scales, given": lambda: (
        context(image_flow(3, 4, 4, 2, context=GIVEN)),
        pixels(2, 3, 4, 4),
    ),
    "modern 1x8x8, 2 scales, variational dequantization, given": lambda: (
        context(
            image_flow(
                1, 8, 8, 2, context=GIVEN, architecture="modern", dequantization="variational"
            )
        ),
        pixels(2, 1, 8, 8),
    ),
}
LARGE: dict[str, Case] = {
    "image flow 1x16x16, 3 scales": lambda: (image_flow(1, 16, 16, 3), pixels(2, 1, 16, 16)),
    "image flow 3x32x32, 4 scales": lambda: (image_flow(3, 32, 32, 4), pixels(2, 3, 32, 32)),
}
