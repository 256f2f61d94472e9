"""From a configuration to a flow with fresh weights."""

from collections.abc import Sequence
from threading import RLock
from typing import Literal

import torch

from realnvp.bijections import (
    Bijection,
    Chain,
    Dequantisation,
    JointDequantisation,
    Logit,
    ObliqueDequantisation,
)
from realnvp.config import PRESETS, Config, ModelConfig, TableData, resolve
from realnvp.flows.context import condition_of
from realnvp.flows.flow import Flow, StandardNormal
from realnvp.flows.modern import modern, vector
from realnvp.flows.paper import multiscale
from realnvp.nets.convnet import ConvNet
from realnvp.random import Purpose, generator

DRAWING = RLock()  # of torch's own generator, which all threads share
NOISE = {
    "variational": Dequantisation,
    "autoregressive": JointDequantisation,
    "oblique": ObliqueDequantisation,
}


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
    with drawn_on, DRAWING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            int(generator(config.seed, Purpose.WEIGHTS).integers(2**63))
        )
        condition = condition_of(config)
        return Flow(bijection_of(config), StandardNormal(), config, condition=condition).to(place)


def bijection_of(config: Config) -> Chain:
    """f of a (resolved) configuration, with fresh weights. Of images: with the logit in front."""
    model, (channels, *_) = config.model, config.shape
    if model.architecture == "vector":
        return vector(model, channels)
    f = multiscale if model.architecture == "paper" else modern
    layers: list[Bijection] = [Logit(alpha=model.alpha, levels=config.levels), f(model, channels)]
    if model.dequantization != "uniform":
        noise = NOISE[model.dequantization]
        net = ConvNet(
            4 * channels,
            model.width,
            4 * noise.outputs(channels),
            num_blocks=model.num_blocks,
            context=model.context_dim,
        )
        layers.insert(0, noise(net, levels=config.levels))
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

    The first layers standardise and whiten the data, once they are set: by `standardise`, or by the
    first batch inside `realnvp.bijections.starting`.

    given: columns of a condition c, for p(x | c): (B, given).
    classes: their names, if c is a class.
    num_couplings: each way to divide the entries takes two.
    width, num_blocks: hidden units and residual blocks of each network.
    sine_std: of the sines in the networks (`MLP`). 0: no sines.
    coupling: affine as Real NVP's, additive as NICE's, or spline, which bends as well. One column
        given others is always one spline.
    batch_norm: after each coupling.
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
