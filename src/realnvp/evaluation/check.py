"""Whether a flow, with its weights and on its data, is the exact density that it claims to be."""

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp.config.fields import Config, TableData
from realnvp.config.resolve import smallest_side
from realnvp.evaluation.likelihood import in_bits_per_dim, noisy
from realnvp.flows.flow import Flow, batch_that_fits, config_of, evaluating
from realnvp.moments import stored_moments

IMAGES = 64


class Check(NamedTuple):
    """A measured value and its bound."""

    name: str
    value: float
    bound: float
    unit: str

    @property
    def ok(self) -> bool:
        """Whether the value is finite and within its bound."""
        return self.value <= self.bound


def num_checked(config: Config) -> int:
    """The number of rows or images to check: as many as fit into memory, 64 images at most."""
    fitting = batch_that_fits(config.shape)
    return fitting if isinstance(config.data, TableData) else min(IMAGES, fitting)


def check(
    flow: Flow, data: NDArray[Any], *, seed: int = 0, training: NDArray[Any] | None = None
) -> list[Check]:
    """Check inverses, log-det, batch norm and finite values of a flow on data.

    data: integers (N, C, H, W), or rows of a table (N, D).
    seed: of noise and samples.
    training: data that the flow was trained on, for batch norm's moments. None: data.

    Networks compute in the flow's own type, for the log-det in float64.
    """
    config = config_of(flow)
    table = isinstance(config.data, TableData)
    levels = 2 if table else config.levels
    with evaluating(flow):
        x = noisy(flow, np.concatenate([data, _extremes(data, levels)]), seed)
        scale, bound, unit = x.new_ones(()), 1e-3 * levels / 256, "gray levels"
        if table:
            deviation = x[: len(data)].std(0, correction=0)
            scale, bound, unit = torch.where(deviation > 0, deviation, 1), 1e-6, "deviations"
        error = ((flow.decode(flow.encode(x)) - x) / scale).abs().max().nan_to_num(math.inf).item()
        samples = flow.sample(min(IMAGES, num_checked(config)), seed=seed)
        finite = {"log_prob": flow.log_prob(x), "samples": samples}
        finite["log_prob of the samples"] = flow.log_prob(samples)
        return [
            Check("decode(encode(x))", error, bound, unit),
            Check("log-det against autograd", _log_det_error(flow, x), 1e-9, "nats per dimension"),
            *_moments(flow, data if training is None else training, seed),
            *(
                Check(name, float((~values.isfinite()).sum()), 0, "not finite")
                for name, values in finite.items()
            ),
        ]


def _extremes(data: NDArray[Any], levels: int) -> NDArray[Any]:
    """Black, white and two one-pixel checkerboards; of rows each column's least and largest."""
    if data.ndim == 2:
        return np.stack([data.min(0), data.max(0)])
    board = np.indices(data.shape[2:]).sum(0) % 2
    planes = (levels - 1) * np.stack([0 * board, 0 * board + 1, board, 1 - board])
    return np.repeat(planes[:, None], data.shape[1], axis=1).astype(data.dtype)


def _log_det_error(flow: Flow, x: Tensor) -> float:
    """|log_det - log |det J|| / D of one row, or of the smallest crop that the scales divide."""
    double = copy.deepcopy(flow).cpu().double()
    side = max(2, smallest_side(config_of(flow).model))
    one = (x[:1, :, :side, :side] if x.ndim == 4 else x[:1]).cpu().double()
    with torch.enable_grad():
        jacobian = torch.func.jacrev(lambda v: double.bijection(v)[0], chunk_size=64)(one)
    expected = torch.linalg.slogdet(jacobian.reshape(one.numel(), -1)).logabsdet
    error = (expected - double.bijection(one)[1]).abs().item() / one.numel()
    return error if math.isfinite(error) else math.inf


def _moments(flow: Flow, data: NDArray[Any], seed: int) -> Iterator[Check]:
    """|bits/dim with batch norm's stored moments - bits/dim with the batch's|.

    The moments of few images stray, so the bound is larger below 16 images. With the photos preset
    after 200 steps the gap was at most 1.0, .50, .36, .23, .10, .05 for 1, 2, 4, 8, 16, 32 images,
    and 3 to 5 with each variance doubled.
    """
    if stored_moments(flow):
        x = noisy(flow, data, seed)
        gap = flow.log_prob(x).mean() - copy.deepcopy(flow).train().log_prob(x).mean()
        value, bound = abs(in_bits_per_dim(gap.item(), x.shape[1:])), 0.2 * max(1.0, 16 / len(x))
        yield Check("stored moments against a batch's own", value, bound, "bits/dim")
