"""A training that starts with the weights of another flow."""

import warnings
from pathlib import Path

from realnvp.config import Config, Kind, differences, flat
from realnvp.flows.flow import Flow, config_of


def take_weights(flow: Flow, start: Flow, where: str | Path) -> None:
    """Give the flow the weights of another; ValueError: they do not fit.

    A conditional flow may start with one that is not: what sees the condition stays as it is, and
    of images that is nothing, so both have the same density.

    where: what the other flow is called.
    """
    _check_fit(where, config_of(start), config_of(flow))
    flow.load_state_dict({**flow.state_dict(), **start.state_dict()})


def _may_begin(there: Config, here: Config) -> bool:
    """Whether a condition may begin here: that of images is embedded, by zeros at first."""
    return not there.model.given and here.kind is Kind.IMAGES


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
        if name.startswith("model.") and (name != "model.given" or not _may_begin(there, here))
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
