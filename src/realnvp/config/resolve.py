"""A configuration and its data: the fields that the data decide, scales and their sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from realnvp.config.fields import Config, DataConfig, ModelConfig, Shape, TableData, embed_context


def resolve(
    config: Config,
    shape: Shape,
    columns: tuple[str, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
    decided: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """The configuration with the shape, columns or classes and the number of scales filled in.

    decided: fields of `data` that the data decide where the configuration has their defaults.

    ValueError names the field where the data and the configuration disagree.
    """
    if config.data.shape not in (None, shape):
        raise ValueError(
            f"data.shape: the configuration has {config.data.shape}, the data have {shape}"
        )
    if (len(shape) == 1) != (config.model.architecture == "vector"):
        raise ValueError(
            f"model.architecture: {config.model.architecture} does not fit data of shape {shape}"
        )
    data = _resolve_data(config.data, shape, columns, class_names, decided)
    scales = config.model.num_scales or default_num_scales(shape)
    if config.model.architecture == "modern" and not config.model.num_scales:
        scales = max(1, scales - 1)  # its last scale is at half the resolution, too
    model = replace(config.model, num_scales=scales)
    if data.class_names:
        model = replace(model, context_dim=len(data.class_names))
    elif isinstance(data, TableData) and data.context_values:
        model = replace(model, context_dim=len(embed_context(data.context_values)))
    if len(shape) == 3:
        check_divisible(shape, model)
    return replace(config, data=data, model=model)


def _resolve_data(
    data: DataConfig,
    shape: Shape,
    columns: tuple[str, ...] | None,
    class_names: tuple[str, ...] | None,
    decided: Mapping[str, Any],
) -> DataConfig:
    left_open = {
        name: value
        for name, value in decided.items()
        if getattr(data, name) == getattr(type(data), name)
    }
    data = replace(data, shape=shape, **left_open)  # type: ignore[arg-type]
    if isinstance(data, TableData):
        # The names of the columns that are left: drop is done.
        return replace(data, columns=columns or data.columns, drop=None)
    if "rotate90" in data.augment and shape[1] != shape[2]:
        raise ValueError(f"data.augment: rotate90 needs square images, the data have {shape}")
    if data.classes:
        data = replace(data, class_names=data.class_names or class_names)
        if not data.class_names:
            raise ValueError("data.class_names: is None; the data decide it")
    return data


def coarser(model: ModelConfig) -> ModelConfig:
    """The (resolved) model from the next scale on, with the width and couplings of that scale."""
    assert model.num_scales is not None
    return replace(
        model,
        num_scales=model.num_scales - 1,
        width=max(1, int(model.growth * model.width)),
        num_couplings=max(1, int(model.coupling_decay * model.num_couplings)),
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
    """Check that height and width are multiples of the (resolved) model's smallest side."""
    factor, (height, width) = smallest_side(model), shape[-2:]
    if height % factor or width % factor or not height or not width:
        raise ValueError(
            f"model.num_scales: {model.num_scales} scales need a height and width divisible by "
            f"{factor}, the images have {height}x{width}"
        )
