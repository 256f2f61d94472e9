"""A training that starts with the weights of another flow."""

import re
from pathlib import Path

import torch

from realnvp.bijections import Chain
from realnvp.config import Config, ImageData, differences, flat
from realnvp.config.fields import is_richer
from realnvp.flows.flow import Flow, config_of

# Names of the weights of the layer that decides the noise.
LAST_OF_NOISE = "bijection.bijections.0.net.conv_out."


def take_weights(flow: Flow, start: Flow, where: str | Path) -> None:
    """Give the flow the weights of another flow. ValueError: they do not fit.

    A conditional flow of images may start with one that is not conditional, and learned noise with
    uniform noise: the new weights are zero, so the density is the same at first.

    where: the name of the other flow.
    """
    _check_fit(where, config_of(start), config_of(flow))
    weights = flow.state_dict()
    more = _count_layers(flow) - _count_layers(start)  # learned noise is one more, the first
    new_cells = _noise(flow) == "oblique" and _noise(start) != "oblique"
    for name, weight in start.state_dict().items():
        name = re.sub(
            r"^(bijection\.bijections\.)(\d+)\.", lambda m: f"{m[1]}{int(m[2]) + more}.", name
        )
        if weight.shape != weights[name].shape:  # the last layer has more outputs now
            missing = len(weights[name]) - len(weight)
            weight = torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])])
        if new_cells and name.startswith(LAST_OF_NOISE):
            weight = torch.zeros_like(weight)  # it was of other cells
        weights[name] = weight
    flow.load_state_dict(weights)


def _noise(flow: Flow) -> str:
    return config_of(flow).model.dequantization


def _count_layers(flow: Flow) -> int:
    assert isinstance(flow.bijection, Chain)
    return len(flow.bijection.bijections)


def _check_fit(where: str | Path, there: Config, here: Config) -> None:
    """ValueError: the weights of a flow do not fit here. No weight depends on an image's size."""
    if (len(there.shape), there.shape[0]) != (len(here.shape), here.shape[0]):
        raise ValueError(f"{where}: has data of shape {there.shape}, not {here.shape}")
    before, after = flat(there), flat(here)
    may_differ = {"model.context_dim"} if isinstance(here.data, ImageData) else set()
    if is_richer(here.model.dequantization, there.model.dequantization):
        may_differ.add("model.dequantization")
    if there.model.context_dim:
        may_differ.discard("model.context_dim")
    changed = [
        f"{name} is {before[name]}, not {after[name]}"
        for name in differences(there, here)
        if name.startswith("model.") and name not in may_differ
    ]
    if changed:
        raise ValueError(f"{where}: {'; '.join(changed)}")
