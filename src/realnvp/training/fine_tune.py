"""A training that starts with the weights of another flow."""

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor

from realnvp.bijections import Chain
from realnvp.config import Config, Kind, differences, flat
from realnvp.config.fields import is_richer
from realnvp.flows.flow import Flow, config_of

# Names of the weights of the layer that says what the noise is.
LAST_OF_NOISE = "bijection.bijections.0.net.conv_out."


def take_weights(flow: Flow, start: Flow, where: str | Path) -> None:
    """Give the flow the weights of another; ValueError: they do not fit.

    A conditional flow may start with one that is not: what sees the condition stays as it is, and
    of images that is nothing, so both have the same density. So have both where noise begins to be
    learned, or to depend on other noise in the same cells: that begins with zeros. In oblique cells
    noise begins as uniform noise, since what the other flow knew of it was of other cells. So the
    bound is another at first.

    where: what the other flow is called.
    """
    _check_fit(where, config_of(start), config_of(flow))
    weights = flow.state_dict()
    new_cells = _has_oblique_cells(flow) and not _has_oblique_cells(start)
    for name, weight in _weights(start, flow).items():
        if weight.shape != weights[name].shape:  # of the network whose last layer says more now
            more = len(weights[name]) - len(weight)
            weight = torch.cat([weight, weight.new_zeros(more, *weight.shape[1:])])
        if new_cells and name.startswith(LAST_OF_NOISE):
            weight = torch.zeros_like(weight)
        weights[name] = weight
    flow.load_state_dict(weights)


def _has_oblique_cells(flow: Flow) -> bool:
    return config_of(flow).model.dequantization == "oblique"


def _weights(start: Flow, flow: Flow) -> dict[str, Tensor]:
    """The other flow's weights by this flow's names; learned noise may be its first layer."""
    more = _layers(flow) - _layers(start)

    def later(layer: re.Match[str]) -> str:
        return f"{layer[1]}{int(layer[2]) + more}."

    return {
        re.sub(r"^(bijection\.bijections\.)(\d+)\.", later, name): weight
        for name, weight in start.state_dict().items()
    }


def _layers(flow: Flow) -> int:
    assert isinstance(flow.bijection, Chain)
    return len(flow.bijection.bijections)


def _may_begin(name: str, there: Config, here: Config) -> bool:
    """Whether this field may differ: `take_weights` knows where to begin."""
    match name:
        case "model.context_dim":
            return not there.model.context_dim and here.kind is Kind.IMAGES
        case "model.dequantization":
            return is_richer(here.model.dequantization, there.model.dequantization)
    return False


def _check_fit(where: str | Path, there: Config, here: Config) -> None:
    """ValueError: the weights of a flow do not fit here. No weight depends on an image's size."""
    if (len(there.shape), there.shape[0]) != (len(here.shape), here.shape[0]):
        raise ValueError(
            f"{where}: its data are of shape {there.shape}, these of {here.shape}, "
            "so its weights do not fit"
        )
    before, after = flat(there), flat(here)
    if changed := [
        f"{name} is {before[name]} there, {after[name]} here"
        for name in differences(there, here)
        if name.startswith("model.") and not _may_begin(name, there, here)
    ]:
        raise ValueError(f"{where}: its weights do not fit: {', '.join(changed)}")
    for what in ("columns", "class_names"):
        names, others = getattr(there.data, what) or (), getattr(here.data, what) or ()
        if names and names != others:
            warnings.warn(
                f"{where}: was trained on {what.replace('_', ' ')} {', '.join(names)}, "
                f"these are {', '.join(others)}",
                stacklevel=2,
            )
