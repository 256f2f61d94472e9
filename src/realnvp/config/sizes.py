"""What follows from the size of the data: scales, widths, how many parameters at least."""

import typing
from dataclasses import replace

from realnvp.config.fields import Config, ModelConfig, Shape

# A hundred times the paper's largest model; to build more is a mistake, or an attack.
MOST_PARAMETERS = 10**10


def resolve(config: Config, shape: Shape, columns: tuple[str, ...] | None = None) -> Config:
    """The configuration with the shape, a table's columns and the number of scales filled in.

    ValueError names the field where the data and the configuration disagree.
    """
    if config.data.shape not in (None, shape):
        raise ValueError(f"data.shape: the configuration says {config.data.shape}, the data are {shape}")
    if (len(shape) == 1) != (config.model.architecture == "vector"):
        raise ValueError(f"model.architecture: {config.model.architecture} does not fit data of shape {shape}")
    scales = config.model.num_scales or default_num_scales(shape)
    if config.model.architecture == "modern" and not config.model.num_scales:
        scales = max(1, scales - 1)  # its last scale is at half the resolution, too
    data = replace(config.data, shape=shape, columns=config.data.columns or columns)
    config = replace(config, data=data, model=replace(config.model, num_scales=scales))
    if len(shape) == 3:
        check_divisible(shape, config.model)
    if data.turn and shape[1] != shape[2]:
        raise ValueError(f"data.turn: is for square images, the data are {shape}")
    if (least := least_parameters(config)) > MOST_PARAMETERS:
        raise ValueError(f"model.width: {config.model.width} with {scales} scales needs more than {least:.0e} parameters")
    return config


def least_parameters(config: Config) -> int:
    """A number of parameters that the flow of this (resolved) configuration has at least: those of its blocks."""
    models = [config.model]
    while (models[-1].num_scales or 1) > 1:
        models.append(coarser(models[-1]))
    last = models[-1]
    if last.architecture == "paper":
        return 4 * (1 + 19 * last.num_blocks) * last.width**2
    each = 18 if last.architecture == "modern" else 2
    return each * last.num_blocks * sum(model.num_couplings * model.width**2 for model in models)


def coarser(model: ModelConfig) -> ModelConfig:
    """The (resolved) model of the further scales: its width and number of couplings are those of the next one."""
    assert model.num_scales is not None
    couplings = max(1, int(model.coupling_growth * model.num_couplings))
    width = max(1, int(model.growth * model.width))
    return replace(model, num_scales=model.num_scales - 1, width=width, num_couplings=couplings)


def default_num_scales(shape: Shape) -> int:
    """1 for vectors; how often images can be halved until a side is odd or the last scale is 4 pixels (section 4.1), plus one."""
    if len(shape) == 1:
        return 1
    side, scales = min(shape[1:]), 1
    while side >= 8 and all(length % 2**scales == 0 for length in shape[1:]):
        side, scales = side // 2, scales + 1
    return scales


def smallest_side(model: ModelConfig) -> int:
    """The least height and width that the scales of a (resolved) model allow; others are its multiples."""
    assert model.num_scales is not None
    return 1 << model.num_scales - (model.architecture == "paper")


def check_divisible(shape: typing.Sequence[int], model: ModelConfig) -> None:
    """ValueError if height or width is no multiple of what the (resolved) model's scales need."""
    factor = smallest_side(model)
    height, width = shape[-2:]
    if height % factor or width % factor or not height or not width:
        needed = f"{model.num_scales} scales need a height and width divisible by {factor}"
        raise ValueError(f"images of {height}x{width}: {needed} (model.num_scales)")
