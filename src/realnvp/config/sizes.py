"""What follows from the size of the data: scales, widths, how many parameters at least."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from realnvp.config.fields import Config, DataConfig, ModelConfig, Shape
from realnvp.config.given import given_columns, numbers_of
from realnvp.config.words import count_of

# A hundred times the paper's largest model; to build more is a mistake, or an attack.
MOST_PARAMETERS = 10**10
# Thirty times the largest preset's. Even a block of small matrices takes 14 kB and .3 ms.
MOST_BLOCKS = 4000


def resolve(
    config: Config,
    shape: Shape,
    columns: tuple[str, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
    decided: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """The configuration with the shape, columns or classes and the number of scales filled in.

    decided: fields of data that the data decide where the configuration leaves them open.

    ValueError names the field where the data and the configuration disagree.
    """
    if config.data.shape not in (None, shape):
        raise ValueError(
            f"data.shape: the configuration says {config.data.shape}, the data are {shape}"
        )
    if (len(shape) == 1) != (config.model.architecture == "vector"):
        raise ValueError(
            f"model.architecture: {config.model.architecture} does not fit data of shape {shape}"
        )
    scales = config.model.num_scales or default_num_scales(shape)
    if config.model.architecture == "modern" and not config.model.num_scales:
        scales = max(1, scales - 1)  # its last scale is at half the resolution, too
    if "given" in decided:  # names that "a,b" had stood for
        config = replace(config, data=replace(config.data, given=decided["given"]))
    left_open = {
        name: value
        for name, value in decided.items()
        if getattr(config.data, name) == getattr(DataConfig, name)
    }
    # The columns of the data are those that are left: drop is done.
    data = replace(
        config.data, shape=shape, columns=columns or config.data.columns, drop=None, **left_open
    )
    model = replace(config.model, num_scales=scales)
    if data.classes:
        class_names = data.class_names or class_names
        if not class_names:
            raise ValueError(
                "data.class_names: the data decide them; give the names of the classes"
            )
        data = replace(data, class_names=class_names)
        model = replace(model, given=len(class_names))
    if data.given and data.given_values:
        columns_given = given_columns(data.given, data.given_values)
        model = replace(model, given=len(numbers_of(columns_given)))
    if not model.given:
        model = replace(model, given_every=1)  # without a condition all models are alike
    config = replace(config, data=data, model=model)
    if len(shape) == 3:
        check_divisible(shape, config.model)
    if data.turn and shape[1] != shape[2]:
        raise ValueError(f"data.turn: is for square images, the data are {shape}")
    if (least := least_parameters(config)) > MOST_PARAMETERS:
        raise ValueError(
            f"model.width: {config.model.width} with {scales} scales and data of shape {shape} "
            f"needs more than {least:.0e} parameters{_or_crops(config)}"
        )
    return config


def _or_crops(config: Config) -> str:
    """'; or pieces of them: data.crop 64' where that can be done."""
    whole = config.data.set == "images" and not config.data.crop and len(config.shape) == 3
    return "; or pieces of them: data.crop 64" if whole and min(config.shape[1:]) > 64 else ""


def count_blocks(config: Config) -> int:
    """Residual blocks of all networks; a network's first and last layer count as one more block.

    If neither the configuration nor its shape decides the number of scales: of a single scale.
    """
    model, shape = config.model, config.data.shape
    scales = model.num_scales or (default_num_scales(shape) if shape else 1)
    return (1 + model.num_blocks) * (
        sum(count for _, _, count in _networks(replace(model, num_scales=scales)))
        + (model.dequantisation != "uniform")
    )


def least_parameters(config: Config) -> int:
    """A lower bound on a (resolved) configuration's parameters: networks and mixings of columns."""
    model, channels = config.model, (config.data.shape or (1,))[0]
    if model.architecture == "vector" and channels == 1 and model.given:  # is one spline
        model = replace(model, num_couplings=1)
    mixings = (model.num_couplings + 1) // 2 if model.architecture == "vector" else 0
    total = mixings * channels**2  # of all columns
    for scale, width, count in _networks(model):
        # Channels double with each scale; a block is two layers.
        if model.architecture == "paper":
            ends, block = width**2 + 19 * channels * 2**scale * width, 19 * width**2
        elif model.architecture == "modern":
            ends, block = 36 * channels * 2**scale * width, 18 * width**2
        else:
            ends, block = 2 * channels * width, 2 * width**2
        total += count * (ends + model.num_blocks * block)
    return total


def _networks(model: ModelConfig) -> list[tuple[int, int, int]]:
    """(scale, width, count) of the networks of a (resolved) model's couplings."""
    if model.architecture == "vector":
        return [(0, model.width, model.num_couplings)]
    found, scales = [], model.num_scales or 1
    for scale in range(scales):
        last = scale == scales - 1
        if model.architecture == "modern":
            # One more coupling makes the prior of the half that is factored out.
            found.append((scale, model.width, model.num_couplings + (not last)))
        else:
            found.append((scale, model.width, 4 if last else 3))
        if not last:
            model = coarser(model)
            if model.architecture == "paper":
                found.append((scale + 1, model.width, 3))
    return found


def coarser(model: ModelConfig) -> ModelConfig:
    """The (resolved) model from the next scale on, with the width and couplings of that scale."""
    assert model.num_scales is not None
    return replace(
        model,
        num_scales=model.num_scales - 1,
        width=max(1, int(model.growth * model.width)),
        num_couplings=max(1, int(model.coupling_growth * model.num_couplings)),
    )


def default_num_scales(shape: Shape) -> int:
    """1 for vectors; for images, halve them until a side is odd or 4 pixels (section 4.1).

    The scales are one more than the halvings.
    """
    if len(shape) == 1:
        return 1
    side, scales = min(shape[1:]), 1
    while side >= 8 and all(length % 2**scales == 0 for length in shape[1:]):
        side, scales = side // 2, scales + 1
    return scales


def smallest_side(model: ModelConfig) -> int:
    """The least side that a (resolved) model's scales allow; other sides are its multiples."""
    assert model.num_scales is not None
    return 1 << model.num_scales - (model.architecture == "paper")


def check_divisible(shape: Sequence[int], model: ModelConfig) -> None:
    """ValueError if height or width is no multiple of what the (resolved) model's scales need."""
    factor, (height, width) = smallest_side(model), shape[-2:]
    if height % factor or width % factor or not height or not width:
        raise ValueError(
            f"images of {height}x{width}: {count_of(model.num_scales or 0, 'scale')} "
            f"need{'s' * (model.num_scales == 1)} "
            f"a height and width divisible by {factor} (model.num_scales)"
        )
