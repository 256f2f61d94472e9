"""Strategies of bijections and example batches in float64, and helpers of other tests."""

from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from realnvp.bijections import (
    ActNorm,
    Additive,
    Affine,
    BatchNorm,
    Bijection,
    Chain,
    Conditioned,
    Coupling,
    FactorOut,
    InvertibleLinear,
    Logit,
    Regression,
    RQSpline,
    SinhArcsinh,
    Squeezed,
    VariationalDequantization,
    bitwise,
    channelwise,
    checkerboard,
    none_kept,
)
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.flows.build import build, vector_flow
from realnvp.flows.flow import Flow
from realnvp.moments import averaging
from realnvp.nets.convnet import MLP, ConvNet
from realnvp.nets.resnet import ChannelSplitNet, ResNet

CONTEXT = 3  # numbers of the condition of conditional cases
Case = tuple[Bijection, Tensor]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def pixels(*shape: int, levels: int = 256) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.rand(shape, dtype=torch.float64, generator=random) * levels


def moved(bijection: Bijection, x: Tensor) -> Bijection:
    """float64, eval mode, weights away from their start, and moments that do not quite fit.

    At the start, with a log-scale of 0, errors would hide.
    """
    bijection.double().train()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in bijection.parameters():
            noise = torch.rand(parameter.shape, dtype=parameter.dtype, generator=random)
            parameter.add_(0.3 * (noise - 0.3))
        with averaging(bijection):
            bijection(x)
        for buffer in bijection.buffers():
            buffer.mul_(1 + 0.2 * torch.rand(buffer.shape, dtype=buffer.dtype, generator=random))
    return bijection.eval()


def shaken(flow: Flow, size: float = 0.1) -> Flow:
    """The flow in eval mode, its weights away from their start, where networks give zeros."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in flow.parameters():
            weight += size * torch.randn(weight.shape, generator=random)
    return flow.eval()


def learned_noise(channels: int, *, levels: int = 256) -> VariationalDequantization:
    net = ConvNet(4 * channels, 4, 4 * VariationalDequantization.outputs(channels), num_blocks=1)
    return VariationalDequantization(net, levels=levels)


def image_flow(
    channels: int, height: int, width: int, num_scales: int, *, context: int = 0, **fields: Any
) -> Bijection:
    """The bijection of a tiny flow of images."""
    sizes = {"num_scales": num_scales, "width": 4, "num_blocks": 1, "num_couplings": 2}
    names = tuple(map(str, range(context))) or None
    data = ImageData(shape=(channels, height, width), classes=context > 0, class_names=names)
    return build(Config(data=data, model=ModelConfig(**sizes | fields))).bijection


def conditioned(bijection: Bijection) -> Conditioned:
    return Conditioned(bijection, normal(1, CONTEXT))


@st.composite
def couplings(draw: st.DrawFn, *, conditional: bool = False) -> Case:
    """Every transform with every mask, of rows and of images."""
    transform = draw(st.sampled_from([Affine, Additive, RQSpline]))
    context, flip = CONTEXT * conditional, draw(st.booleans())
    kind = draw(st.sampled_from(["bitwise", "none", "checkerboard", "channelwise"]))
    if kind in ("bitwise", "none"):
        dim = draw(st.integers(1, 5))
        bit = draw(st.integers(0, 3))
        mask = none_kept if kind == "none" else partial(bitwise, bit=bit, flip=flip)
        outputs, std = transform.outputs * dim, draw(st.sampled_from([0.0, 6.0]))
        net = MLP(dim, 6, outputs, num_blocks=1, sine_std=std, context=context)
        x = normal(3, dim)
    elif kind == "checkerboard":
        channels, height, width = (draw(st.integers(1, 3)) for _ in range(3))
        mask, outputs = partial(checkerboard, flip=flip), transform.outputs * channels
        net = ResNet(channels, 6, outputs, num_blocks=1, see_mask=True, context=context)
        x = normal(2, channels, height, width)
    else:
        half, height, width = (draw(st.integers(1, 2)) for _ in range(3))
        inner = ConvNet(half, 6, transform.outputs * half, num_blocks=1, context=context)
        mask, net = partial(channelwise, flip=flip), ChannelSplitNet(inner, flip=flip)
        x = normal(2, 2 * half, height, width)
    coupling = Coupling(mask, net, transform, bound=draw(st.sampled_from([0.0, 1.0])))
    return conditioned(coupling) if conditional else coupling, 2 * x


def _channels(draw: st.DrawFn) -> Tensor:
    """Rows, or images of as many channels."""
    return normal(4, 3, *draw(st.sampled_from([(), (2, 3)])))


@st.composite
def of_channels(draw: st.DrawFn, kind: Any) -> Case:
    return kind(3), _channels(draw)


@st.composite
def logits(draw: st.DrawFn) -> Case:
    levels = draw(st.sampled_from([2, 17, 256, 65536]))
    return Logit(alpha=draw(st.floats(0.01, 0.4)), levels=levels), pixels(2, 1, 3, 3, levels=levels)


@st.composite
def nested(draw: st.DrawFn) -> Case:
    """Squeezes and factorings out of chains of couplings and batch norm."""
    kind = draw(st.sampled_from(["squeezed", "by color", "factored out"]))
    channels, height, width = draw(st.sampled_from([(1, 4, 6), (2, 2, 4)]))
    inside = 2 * channels if kind == "factored out" else 4 * channels
    net = ResNet(inside, 6, 2 * inside, num_blocks=1, see_mask=True)
    chain = Chain([Coupling(checkerboard, net, Affine), BatchNorm(inside)])
    x = normal(2, channels, height, width)
    if kind == "factored out":
        return FactorOut(chain), x
    return Squeezed(chain, by_color=kind == "by color"), x


@st.composite
def noises(draw: st.DrawFn) -> Case:
    channels, levels = draw(st.integers(1, 3)), draw(st.sampled_from([17, 256]))
    return learned_noise(channels, levels=levels), pixels(2, channels, 2, 4, levels=levels)


@st.composite
def vector_flows(draw: st.DrawFn) -> Case:
    dim, context = draw(st.integers(1, 5)), draw(st.sampled_from([0, CONTEXT]))
    bijection = vector_flow(
        dim,
        context=context,
        width=8,
        num_couplings=draw(st.integers(1, 4)),
        coupling=draw(st.sampled_from(["affine", "additive", "spline"])),
        batch_norm=draw(st.booleans()),
    ).bijection
    return conditioned(bijection) if context else bijection, normal(4, dim)


@st.composite
def image_flows(draw: st.DrawFn, architecture: str) -> Case:
    num_scales, context = draw(st.integers(1, 2)), draw(st.sampled_from([0, CONTEXT]))
    channels = draw(st.sampled_from([1, 3]))
    height, width = draw(st.sampled_from([(4, 4), (4, 8)]))
    fields = {"coupling": draw(st.sampled_from(["affine", "additive"]))}
    if architecture == "paper":
        fields["momentum"] = draw(st.sampled_from([0.0, 0.9]))
    else:
        fields["dequantization"] = draw(st.sampled_from(["uniform", "learned"]))
    bijection = image_flow(
        channels, height, width, num_scales, context=context, architecture=architecture, **fields
    )
    return conditioned(bijection) if context else bijection, pixels(2, channels, height, width)


def large_flows() -> st.SearchStrategy[Case]:
    """The whole recursion, too large for a Jacobian."""
    return st.just((3, 32, 32, 4)).map(lambda size: (image_flow(*size), pixels(2, *size[:3])))


KINDS: dict[str, st.SearchStrategy[Case]] = {
    "coupling": couplings(),
    "conditional coupling": couplings(conditional=True),
    "batch norm": of_channels(BatchNorm),
    "act norm": of_channels(ActNorm),
    "linear": of_channels(InvertibleLinear),
    "sinh-arcsinh": of_channels(SinhArcsinh),
    "regression": st.just(3).map(lambda dim: (conditioned(Regression(dim, CONTEXT)), normal(4, 3))),
    "logit": logits(),
    "multiscale": nested(),
    "dequantization": noises(),
    "vector flow": vector_flows(),
    "paper's flow": image_flows("paper"),
    "modern flow": image_flows("modern"),
}
