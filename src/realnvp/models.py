"""The models of the paper, as functions that return a `Flow`: the only place where networks meet bijections."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from realnvp.bijections import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    BatchNorm,
    Bijection,
    Chain,
    Dequantisation,
    FactorOut,
    Logit,
    Mixing,
    Squeezed,
    bitwise,
    channelwise,
    checkerboard,
    starting,
)
from realnvp.bijections.base import like
from realnvp.bijections.masks import Mask
from realnvp.config import PRESETS, Config, DataConfig, ModelConfig, coarser, nearest, resolve, validate
from realnvp.convolution import MatrixConv, WeightNormConv
from realnvp.flow import Flow, images_at_once, state_like
from realnvp.moments import alone
from realnvp.nets import MLP, ConvNet, KeptHalf, ResNet
from realnvp.noise import Purpose, generator
from realnvp.prior import StandardNormal


def build(config: Config | str) -> Flow:
    """A fresh flow for this configuration or preset; the same weights each time for the same seed.

    ValueError if the preset is unknown, or if the configuration has no image shape yet.
    """
    if isinstance(config, str):
        if config not in PRESETS:
            raise ValueError(f"no preset {config!r}{nearest(config, PRESETS)}; there are {', '.join(PRESETS)}")
        config = PRESETS[config]
    if config.data.shape is None:
        raise ValueError("data.shape: the data decide it; give (channels, height, width), or (columns,) of a table")
    config = resolve(validate(config), config.data.shape)
    assert config.data.shape is not None
    assert config.model.num_scales is not None
    place = torch.get_default_device()
    # Drawn on the CPU, whose generator is put back and alone is seeded: torch.manual_seed would seed those of all GPUs, too.
    with torch.device(place if place.type == "meta" else "cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator(config.seed, Purpose.WEIGHTS).integers(2**63)))
        if config.model.architecture == "vector":
            return Flow(vector(config.model, config.data.shape[0]), StandardNormal(), config).to(place)
        assert config.data.levels is not None
        channels, levels = config.data.shape[0], config.data.levels
        layers: list[Bijection] = [Logit(alpha=config.model.alpha, levels=levels)]
        layers.append({"paper": multiscale, "modern": modern}[config.model.architecture](config.model, channels))
        if config.model.dequantisation == "variational":
            squares, numbers = 4 * channels, Dequantisation.NUMBERS
            net = ConvNet(squares, config.model.width, numbers * squares, num_blocks=config.model.num_blocks)
            layers.insert(0, Dequantisation(net, levels=levels))
    return Flow(Chain(layers), StandardNormal(), config).to(place)


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


def half_coupling(model: ModelConfig, net: Callable[[int], nn.Module], channels: int, *, flip: bool) -> Bijection:
    """A channel-wise coupling that changes the second half, with flip the first; its network sees the other half alone."""
    return coupling(model, partial(channelwise, flip=flip), lambda c_out: KeptHalf(net(c_out), flip=flip), channels // 2)


def coupling(model: ModelConfig, mask: Mask, net: Callable[[int], nn.Module], channels: int, *, bound: float = 1.0) -> Bijection:
    """The model's kind of coupling; net makes a network with so many outputs, and channels is how many the coupling changes."""
    if model.coupling == "additive":
        return AdditiveCoupling(mask, net(channels))
    return AffineCoupling(mask, net(2 * channels), bound=bound)


def vector_flow(
    dim: int,
    *,
    num_couplings: int = 8,
    width: int = 64,
    num_blocks: int = 2,
    frequency: float = 6.0,
    coupling: Literal["affine", "additive"] = "affine",
    batch_norm: bool = False,
    seed: int = 0,
) -> Flow:
    """A fresh flow of vectors, (B, dim): for tables and points. The same weights each time for the same seed.

    Its first layers are to standardise and whiten the data: `standardise` sets them, or the first batch within
    `realnvp.bijections.starting`. The density is in the units of the data. frequency: of the networks' sines, `MLP`; 0: none.
    """
    model = ModelConfig(
        "vector",
        coupling,
        num_scales=1,
        width=width,
        num_blocks=num_blocks,
        num_couplings=num_couplings,
        frequency=frequency,
        batch_norm=batch_norm,
    )
    return build(Config("table", DataConfig("table", shape=(dim,), levels=None), model, seed=seed))


def vector(model: ModelConfig, dim: int) -> Chain:
    """Couplings with fully connected networks, two for each way to divide the entries, then a learned mixing of the entries.

    First comes the data's standardisation, which stays, and their whitening, which is learned. The standardisation is two
    layers, since weights are float32: where a column lies at 1.7e9 +- 10, seconds since 1970 say, the second one takes what
    rounding left of its mean.
    """
    layers: list[Bijection] = [ActNorm(dim, eps=0.0).requires_grad_(False) for _ in range(2)]
    net = partial(MLP, dim, model.width, num_blocks=model.num_blocks, frequency=model.frequency)
    for i in range(model.num_couplings):
        if i % 2 == 0:
            layers.append(Mixing(dim, starts_as="rotation" if i else "symmetric"))
        mask = partial(bitwise, bit=i // 2, flip=i % 2 == 1)
        layers.append(coupling(model, mask, net, dim))
        if model.batch_norm:
            layers.append(BatchNorm(dim, momentum=model.momentum))
    return Chain(layers)


def standardise(flow: Flow, rows: ArrayLike) -> Flow:
    """The same flow of vectors, its first layers set to standardise and whiten the rows, (N, D), real numbers."""
    start_from(flow, torch.tensor(np.asarray(rows)).to(state_like(flow)))
    return flow


@torch.no_grad()
def start_from(flow: Flow, x: Tensor) -> None:
    """Let the flow's parts that can start from x, all of which this process has; nothing behind the last of them is computed.

    The first layers see all of x. What comes behind a coupling, say, sees a few: networks take time and memory.
    """
    flow.check_batch(x)
    layers = flow.bijection.bijections if isinstance(flow.bijection, Chain) else [flow.bijection]
    few = max(128, images_at_once(x.shape[1:]))
    with alone(), starting(flow) as parts:
        for layer in layers:
            if not any(part.starting for part in parts):
                break
            x, _ = layer(x if layer in parts else x[:few])


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


def l2_penalty(flow: Flow) -> Tensor:
    """The sum of squares of the weight norm's trained gains and of the checkerboard couplings' bounds."""
    gains = [m.gain for m in flow.modules() if isinstance(m, WeightNormConv) and m.gain is not None]
    bounds = [m.bound for m in flow.modules() if isinstance(m, AffineCoupling) and not isinstance(m.net, KeptHalf)]
    return torch.stack([like(flow).new_zeros(()), *(parameter.square().sum() for parameter in [*gains, *bounds])]).sum()


def matrices(flow: Flow) -> list[Tensor]:
    """The networks' weights that are matrices, (out, in): what Muon is for."""
    layers = [module for module in flow.modules() if isinstance(module, MatrixConv | nn.Linear)]
    return [layer.weight for layer in layers]


def recompute(flow: Flow) -> Flow:
    """The same flow; of each coupling and batch norm, training then keeps the input alone, and computes the rest again."""
    for module in flow.modules():
        if isinstance(module, AffineCoupling | AdditiveCoupling | BatchNorm):
            module.recompute = True
    return flow
