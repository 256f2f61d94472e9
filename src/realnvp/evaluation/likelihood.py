"""Log-densities of images and rows, and their mean with its standard error."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator
from torch import Tensor

from realnvp.bijections.base import float64_like
from realnvp.config.fields import Config, TableData
from realnvp.data.dataset import dequantize
from realnvp.device import as_tensor, moved
from realnvp.flows.context import Classes
from realnvp.flows.flow import ROWS, Flow, batch_that_fits, evaluating, refuse_fast
from realnvp.progress import track_slices
from realnvp.random import Purpose, uniform

Nats = TypeVar("Nats", float, Tensor)


def in_bits_per_dim(nats: Nats, shape: Sequence[int]) -> Nats:
    """-log2 p / D of log-densities in nats, for images of this shape."""
    return nats / (-math.log(2) * math.prod(shape))


class Unit(NamedTuple):
    """A unit in which the log-densities of a run are reported."""

    key: str
    """Its name in JSON."""
    words: str
    things: str
    """Images or rows."""
    sign: int
    """1 where more is better, -1 where less is."""

    def of(self, nats: Nats, shape: Sequence[int]) -> Nats:
        """Log-densities in this unit."""
        return in_bits_per_dim(nats, shape) if self.sign < 0 else nats


BITS_PER_DIM = Unit("bits_per_dim", "bits/dim", "images", -1)
LOG_LIKELIHOOD = Unit("log_likelihood", "nats", "rows", 1)


def unit_of(config: Config | None) -> Unit:
    """Bits/dim for images; nats a row for tables, in the units of their columns."""
    table = config is not None and isinstance(config.data, TableData)
    return LOG_LIKELIHOOD if table else BITS_PER_DIM


Examples = Tensor | NDArray[Any]
"""Images (N, C, H, W), uint8 or uint16, or rows (N, D)."""
INTEGERS = (torch.uint8, torch.uint16, np.uint8, np.uint16)
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float; null in JSON where it is not finite."""


@dataclass(frozen=True)
class Mean:
    """A mean over images or rows; not finite if one value is not."""

    mean: Number
    standard_error: Number
    """NaN for a single value, or a single group."""
    nonfinite: int = 0
    """How many values are not finite."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} +- {self.standard_error:.3f}"


@dataclass(frozen=True, kw_only=True)
class BitsPerDim(Mean):
    """-log2 p(x) / D over images: a bound on the bits of a lossless code per channel and pixel."""

    per_image: Tensor
    """(N,), float64."""


def summarize(values: Tensor, groups: Sequence[int] | NDArray[np.int64] | None = None) -> Mean:
    """The mean of values, (N,), one per image or row.

    groups: which belong together, as crops of one photograph; clusters the standard error.
    """
    mean = values.mean()
    names = np.arange(len(values)) if groups is None else np.asarray(groups)
    members = torch.from_numpy(np.unique(names, return_inverse=True)[1])
    count = int(members.max()) + 1
    sums = values.new_zeros(count).index_add_(0, members, values - mean)
    variance = sums.square().sum() * count / (count - 1) if count > 1 else torch.tensor(math.nan)
    error = variance.sqrt().item() / len(values)
    return Mean(mean.item(), error, int((~values.isfinite()).sum()))


def bits_per_dim(
    flow: Flow,
    images: Examples,
    *,
    noise_draws: int = 1,
    seed: int = 0,
    context: Any = None,
    groups: Sequence[int] | NDArray[np.int64] | None = None,
    batch_size: int = 64,
) -> BitsPerDim:
    """Bits/dim of images under uniform dequantization (sections 4.1-4.2), in eval mode.

    For a flow with `VariationalDequantization` this is the bound of variational dequantization.

    groups: which images belong together, as crops of one photograph; clusters the standard error.
    Other arguments: see `log_probs`.
    """
    refuse_fast(flow, "report the numbers of")
    if unit_of(flow.config) is not BITS_PER_DIM:
        raise ValueError("flow: is of a table; bits/dim is of images")
    how: dict[str, Any] = {"noise_draws": noise_draws, "seed": seed}
    nats = log_probs(flow, images, context=context, batch_size=batch_size, **how)
    bits = in_bits_per_dim(nats, images.shape[1:])
    return BitsPerDim(**asdict(summarize(bits, groups)), per_image=bits)


def log_probs(
    flow: Flow,
    x: Examples,
    *,
    noise_draws: int = 1,
    seed: int = 0,
    context: Any = None,
    indices: Sequence[int] | None = None,
    batch_size: int = 64,
    on_device: bool = False,
) -> Tensor:
    """log p in nats, (N,), float64, of images or rows.

    x: images, uint8 or uint16 (N, C, H, W), which get noise, or rows (N, D), which get none.
    noise_draws: draws of the noise over which log p is averaged.
    seed: of the noise.
    context: c of all x, or of each. None: of a class-conditional flow log p of the mixture.
    indices: the noise of image i is a function of indices[i]. None: 0, 1, 2, ...
    batch_size: images at once; fewer where they are large.
    on_device: leave the result on the flow's device, without waiting for it.

    ValueError: the images are no gray levels of this flow.
    """
    table = unit_of(flow.config) is LOG_LIKELIHOOD
    if not table and x.dtype not in INTEGERS:
        raise ValueError(f"images: expected uint8 or uint16, got {x.dtype}")
    if noise_draws < 1:
        raise ValueError(f"noise_draws: must be at least 1, got {noise_draws}")
    indices = range(len(x)) if indices is None else indices
    mixture = context is None and isinstance(flow.condition, Classes)
    c = None if mixture else flow.condition_of_each(context, len(x))
    size = ROWS if table else min(batch_size, batch_that_fits(x.shape[1:]))
    # Parts stay on the device until the end: to look at a part is to wait for the device.
    parts = []
    with evaluating(flow), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "x: up to")  # dark images are still in data units
        for part in track_slices(len(x), size):
            density: Callable[[Tensor], Tensor] = flow.mixture_log_prob
            if not mixture:
                density = partial(flow.log_prob, context=None if c is None else c[part])
            draws = [
                density(noisy(flow, x[part], seed, indices[part], draw))
                for draw in range(1 if table else noise_draws)
            ]
            parts.append(torch.stack(draws).mean(0))
    nats = torch.cat(parts)
    return nats if on_device else nats.cpu().double()


def noisy(
    flow: Flow,
    x: Examples,
    seed: int,
    indices: Sequence[int] | None = None,
    draw: int = 0,
    *,
    single: bool = False,
) -> Tensor:
    """v + u of images, or rows as they are, on the flow's device; single: in float32."""
    state = float64_like(flow).float() if single else float64_like(flow)
    x = moved(x if isinstance(x, Tensor) else as_tensor(x), state.device)
    if x.ndim == 2:
        return x.to(state.dtype)
    largest = int(x.to(torch.int32).max())  # torch has no maximum of uint16
    if flow.config and largest >= flow.config.levels:
        raise ValueError(f"images: a pixel is {largest}, the flow has {flow.config.levels} levels")
    indices = range(len(x)) if indices is None else indices
    noise = uniform(x.shape[1:], seed, Purpose.EVALUATE, indices=indices, round=draw)
    return dequantize(x, moved(noise, state.device).to(state))
