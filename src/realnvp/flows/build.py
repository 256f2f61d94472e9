"""Flows with fresh weights: the paper's architecture, later image flows, and flows of vectors."""

from collections.abc import Callable, Sequence
from functools import partial
from threading import RLock
from typing import Literal

import torch
from torch import Tensor, nn

from realnvp.bijections import (
    ActNorm,
    Additive,
    Affine,
    BatchNorm,
    Bijection,
    Chain,
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
from realnvp.bijections.base import reference_tensor
from realnvp.bijections.coupling import Mask, Transform
from realnvp.config.fields import Config, ModelConfig, TableData
from realnvp.config.presets import PRESETS
from realnvp.config.resolve import coarser, resolve
from realnvp.flows.context import condition_of, standardization
from realnvp.flows.flow import Flow, StandardNormal
from realnvp.nets.convnet import MLP, ConvNet
from realnvp.nets.layers import MatrixConv, WeightNormConv
from realnvp.nets.resnet import ChannelSplitNet, ResNet
from realnvp.random import Purpose, generator

TRANSFORMS: dict[str, type[Transform]]
TRANSFORMS = {"affine": Affine, "additive": Additive, "spline": RQSpline}
MakeNet = Callable[[int], nn.Module]  # of a number of outputs for each pixel or row
_drawing = RLock()  # of torch's own generator, which all threads share


@torch.inference_mode(False)  # or its weights could not be trained
def build(config: Config | str) -> Flow:
    """A fresh flow of a configuration or a preset; its weights are a function of config.seed."""
    if isinstance(config, str):
        config = PRESETS[config]
    config = resolve(config, config.shape)
    place = torch.get_default_device()
    # We draw on the CPU and seed the CPU's generator alone, which we put back: torch.manual_seed
    # would seed the generators of all GPUs, too.
    drawn_on = torch.device(place if place.type == "meta" else "cpu")
    with drawn_on, _drawing, torch.random.fork_rng(devices=[]):
        seed = int(generator(config.seed, Purpose.WEIGHTS).integers(2**63))
        torch.default_generator.manual_seed(seed)
        condition = condition_of(config)
        return Flow(bijection_of(config), StandardNormal(), config, condition=condition).to(place)


def bijection_of(config: Config) -> Chain:
    """f of a (resolved) configuration, with fresh weights. Of images: with the logit in front."""
    model, (channels, *_) = config.model, config.shape
    if model.architecture == "vector":
        return vector(model, channels)
    f = multiscale if model.architecture == "paper" else modern
    layers: list[Bijection] = [Logit(alpha=model.alpha, levels=config.levels), f(model, channels)]
    if model.dequantization == "learned":
        net = _convnet(model, 4 * channels, context=model.context_dim)
        outputs = 4 * VariationalDequantization.outputs(channels)
        layers.insert(0, VariationalDequantization(net(outputs), levels=config.levels))
    return Chain(layers)


def vector_flow(
    dim: int,
    *,
    context: int = 0,
    classes: Sequence[str] = (),
    num_couplings: int = 8,
    width: int = 64,
    num_blocks: int = 2,
    sine_std: float = 6.0,
    coupling: Literal["affine", "additive", "spline"] = "affine",
    batch_norm: bool = False,
    seed: int = 0,
) -> Flow:
    """A fresh flow of vectors, (B, dim), for tables and points. The density is in the data's units.

    The first layers standardize and whiten the data once `fit` has initialized them.

    context: number of columns of the condition c of p(x | c).
    classes: names of the classes, if c is a class.
    width, num_blocks: hidden units and residual blocks of each network.
    sine_std: standard deviation of the networks' sines (`MLP`). 0: no sines.
    coupling: affine as in Real NVP, additive as in NICE, or spline. The map of one column given a
        condition is always one spline.
    seed: of the weights.
    """
    model = ModelConfig(
        "vector",
        coupling,
        num_scales=1,
        width=width,
        num_blocks=num_blocks,
        num_couplings=num_couplings,
        sine_std=sine_std,
        batch_norm=batch_norm,
        context_dim=context,
    )
    data = TableData(shape=(dim,), class_names=tuple(classes) or None)
    return build(Config("table", data, model, seed=seed))


def count_parameters(config: Config) -> int:
    """The number of learned parameters of the flow of a configuration; allocates none of them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def multiscale(model: ModelConfig, channels: int) -> Chain:
    """f of section 3.6 for x of (C, H, W): eq 10-13 as a recursion over the scales.

    Each scale has three checkerboard couplings, a squeeze and three channel-wise couplings; then
    half of the result is factored out. The last scale has four checkerboard couplings.
    """
    if model.num_scales == 1:
        return Chain(checkerboard_couplings(model, channels, 4))
    further, layers = coarser(model), checkerboard_couplings(model, channels, 3)
    layers.append(Squeezed(Chain(channelwise_couplings(further, 4 * channels, 3))))
    return Chain([*layers, FactorOut(multiscale(further, 2 * channels))])


def checkerboard_couplings(model: ModelConfig, channels: int, count: int) -> list[Bijection]:
    """Couplings with alternating checkerboards, each followed by batch norm of its whole output."""
    net, layers = _resnet(model, channels, see_mask=True), list[Bijection]()
    for i in range(count):
        mask = partial(checkerboard, flip=i % 2 == 1)
        layers.append(coupling(model, mask, net, channels, bound=0.0))
        layers.append(BatchNorm(channels, momentum=model.momentum))
    return layers


def channelwise_couplings(model: ModelConfig, channels: int, count: int) -> list[Bijection]:
    """Couplings that change the channels' second, first, second ... half, each with batch norm."""
    net, layers = _resnet(model, channels // 2), list[Bijection]()
    for i in range(count):
        layers.append(half_coupling(model, net, channels, flip=i % 2 == 1))
        layers.append(BatchNorm(channels, momentum=model.momentum))
    return layers


def half_coupling(model: ModelConfig, net: MakeNet, channels: int, *, flip: bool) -> Coupling:
    """A coupling of the second half of the channels, whose network sees the first. flip: back."""
    mask = partial(channelwise, flip=flip)
    split: MakeNet = lambda c_out: ChannelSplitNet(net(c_out), flip=flip)  # noqa: E731
    return coupling(model, mask, split, channels // 2)


def coupling(
    model: ModelConfig, mask: Mask, net: MakeNet, channels: int, *, bound: float = 1.0
) -> Coupling:
    """A coupling with the model's transform, which changes so many channels."""
    transform = TRANSFORMS[model.coupling]
    return Coupling(mask, net(transform.outputs * channels), transform, bound=bound)


def modern(model: ModelConfig, channels: int) -> Chain:
    """f with the paper's scales and the layers of later flows (Glow), for x of (C, H, W).

    Each scale repeats act norm, a learned linear map of the channels and a checkerboard coupling at
    half the resolution. A last coupling changes the half that is factored out, conditional on the
    half that goes on. So the prior of a scale is a Gaussian conditional on all coarser scales.
    """
    net = _convnet(model, 2 * channels)
    context_net = _convnet(model, 2 * channels, context=model.context_dim)
    layers: list[Bijection] = []
    for left in reversed(range(model.num_couplings)):
        layers += [
            ActNorm(4 * channels),
            InvertibleLinear(4 * channels),
            half_coupling(model, net if left % 2 else context_net, 4 * channels, flip=False),
        ]
    if model.num_scales == 1:
        return Chain([Squeezed(Chain([*layers, ActNorm(4 * channels)]), by_color=True)])
    layers += [ActNorm(4 * channels), half_coupling(model, context_net, 4 * channels, flip=True)]
    further = FactorOut(modern(coarser(model), 2 * channels))
    return Chain([Squeezed(Chain(layers), by_color=True), further])


def vector(model: ModelConfig, dim: int) -> Chain:
    """f for x of (D,): standardization, regression on c, couplings with fully connected networks.

    A pair of couplings divides the entries by one bit of their index, both ways; a linear map
    stands before each pair, of which the first whitens the data. One column given c has one spline
    in place of couplings. Given c, `training.fit.recalibrate` fits the last layer.
    """
    net = partial(
        MLP,
        dim,
        model.width,
        num_blocks=model.num_blocks,
        sine_std=model.sine_std,
        context=model.context_dim,
    )
    layers: list[Bijection] = [*standardization(dim)]
    if model.context_dim:
        layers.append(Regression(dim, model.context_dim))
    if dim == 1 and (model.context_dim or model.coupling == "spline"):
        layers += [ActNorm(dim), Coupling(none_kept, net(RQSpline.outputs), RQSpline)]
    else:
        for i in range(model.num_couplings):
            if i % 2 == 0:
                layers.append(InvertibleLinear(dim, starts_as="rotation" if i else "symmetric"))
            layers.append(coupling(model, partial(bitwise, bit=i // 2, flip=i % 2 == 1), net, dim))
            if model.batch_norm:
                layers.append(BatchNorm(dim, momentum=model.momentum))
    if model.context_dim:
        layers.append(SinhArcsinh(dim).requires_grad_(False))
    return Chain(layers)


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


def _convnet(model: ModelConfig, channels: int, *, context: int = 0) -> MakeNet:
    return partial(ConvNet, channels, model.width, num_blocks=model.num_blocks, context=context)


def l2_penalty(flow: Flow) -> Tensor:
    """Sum of squares of weight norm's trained gains and of the checkerboard couplings' bounds."""
    penalized: list[Tensor | None] = [reference_tensor(flow).new_zeros(())]
    for module in flow.modules():
        if isinstance(module, WeightNormConv):
            penalized.append(module.gain)
        elif isinstance(module, Coupling) and not isinstance(module.net, ChannelSplitNet):
            penalized.append(module.bound)
    return torch.stack([each.square().sum() for each in penalized if each is not None]).sum()


def matrices(flow: Flow) -> list[Tensor]:
    """The networks' weights that are matrices, (out, in), which Muon trains."""
    return [m.weight for m in flow.modules() if isinstance(m, MatrixConv | nn.Linear)]
