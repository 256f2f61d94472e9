"""From a configuration to a flow with fresh weights."""

from typing import Literal

import torch

from realnvp.bijections import Bijection, Chain, Dequantisation, Logit
from realnvp.config import PRESETS, Config, DataConfig, ModelConfig, nearest, resolve, validate
from realnvp.flows.flow import Flow, StandardNormal
from realnvp.flows.modern import modern
from realnvp.flows.paper import multiscale
from realnvp.flows.vector import vector
from realnvp.networks.modern import ConvNet
from realnvp.noise import Purpose, generator


def build(config: Config | str) -> Flow:
    """A fresh flow for this configuration or preset; the same weights each time for the same seed.

    ValueError if the preset is unknown, or if the configuration has no image shape yet.
    """
    if isinstance(config, str):
        if config not in PRESETS:
            raise ValueError(f"no preset {config!r}{nearest(config, PRESETS)}; there are {', '.join(PRESETS)}")
        config = PRESETS[config]
    config = resolve(validate(config), config.shape)
    place = torch.get_default_device()
    # Drawn on the CPU, whose generator is put back and alone is seeded: torch.manual_seed would seed those of all GPUs, too.
    with torch.device(place if place.type == "meta" else "cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator(config.seed, Purpose.WEIGHTS).integers(2**63)))
        if config.model.architecture == "vector":
            return Flow(vector(config.model, *config.shape), StandardNormal(), config).to(place)
        channels, levels = config.shape[0], config.levels
        layers: list[Bijection] = [Logit(alpha=config.model.alpha, levels=levels)]
        layers.append({"paper": multiscale, "modern": modern}[config.model.architecture](config.model, channels))
        if config.model.dequantisation == "variational":
            squares, numbers = 4 * channels, Dequantisation.NUMBERS
            net = ConvNet(squares, config.model.width, numbers * squares, num_blocks=config.model.num_blocks)
            layers.insert(0, Dequantisation(net, levels=levels))
    return Flow(Chain(layers), StandardNormal(), config).to(place)


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
