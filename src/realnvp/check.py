"""Is this flow, with its weights and on its data, the exact density that it claims to be?"""

import copy
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from realnvp.bijections import Mixing
from realnvp.bijections.base import Bijection, like
from realnvp.config import smallest_side
from realnvp.data import dequantise
from realnvp.flow import Flow, state_like
from realnvp.likelihood import evaluating
from realnvp.moments import stored_moments
from realnvp.noise import Purpose, generator, uniform
from realnvp.units import in_bits_per_dim


class Check(NamedTuple):
    """A figure and the bound that it must keep."""

    name: str
    value: float
    bound: float
    unit: str

    @property
    def ok(self) -> bool:
        """Whether the figure is finite and within its bound."""
        return self.value <= self.bound


def check(flow: Flow, data: NDArray[Any], *, seed: int = 0) -> list[Check]:
    """Invertibility of each layer and of the whole, log-det against autograd, batch norm's agreement, finite values.

    data: some of it, uint8 (N, C, H, W), or rows of a table, (N, D). All but the log-det in the flow's own precision.
    """
    assert flow.config is not None
    levels = flow.config.data.levels
    with evaluating(flow):
        if levels is None:
            x, far = _with_corners(flow, data), "far out, 20 sigma, of its size, all rows but one"
            deviation = x[: len(data)].std(0, correction=0)
            scale = torch.where(deviation > 0, deviation, 1)
            bound, unit, what = 1e-6, "deviations", "rows, least, largest"
        else:
            x, far = _with_extremes(flow, data, levels, seed), "the same far out, 20 sigma, all images but one"
            scale, bound, unit, what = x.new_ones(()), 1e-3 * levels / 256, "grey levels", "images, black, white, checkerboards"
        samples = flow.sample(64, seed=seed)
        return [
            *_layers(flow, x),
            Check(f"decode(encode(x)): {what}", _gap(flow.decode(flow.encode(x)) / scale, x / scale), bound, unit),
            Check(far, _far_out(flow, x, scale, seed), bound, unit),
            Check("log-det against autograd, float64, of one", _log_det_error(flow, x), 1e-9, "nats per dimension"),
            *_moments(flow, data, x),
            *_conditions(flow),
            Check(f"log_prob of {what}", _nonfinite(flow.log_prob(x)), 0, "not finite"),
            Check("samples", _nonfinite(samples), 0, "not finite"),
            Check("log_prob of the samples", _nonfinite(flow.log_prob(samples)), 0, "not finite"),
        ]


def _with_extremes(flow: Flow, images: NDArray[Any], levels: int, seed: int) -> Tensor:
    """v + u of the images, and of the extremes behind them."""
    pixels = torch.cat([torch.from_numpy(images.copy()), _extremes(images.shape[1:], levels)]).to(like(flow).device)
    noise = uniform(pixels.shape[1:], seed, Purpose.EVALUATE, indices=range(len(pixels)))
    return dequantise(pixels, noise.to(state_like(flow)))


def _with_corners(flow: Flow, rows: NDArray[Any]) -> Tensor:
    """The rows, and behind them one with the least value of each column, and one with the largest."""
    return torch.from_numpy(np.concatenate([rows, rows.min(0, keepdims=True), rows.max(0, keepdims=True)])).to(state_like(flow))


def _far_out(flow: Flow, x: Tensor, scale: Tensor, seed: int) -> float:
    """By how much what latents of 20 standard deviations make changes on the way there and back, all but the worst.

    In scales; of what has no bounds, as the rows of a table, relative to what it is in those. One image in 10^4 has a number that
    the way back rounds, for a network, to the other neighbour in float32.
    """
    far = torch.from_numpy(generator(seed, Purpose.SAMPLE).standard_normal(tuple(x.shape))).to(x)
    there = flow.decode(20 * far)
    size = torch.maximum(scale, there.abs()) if x.ndim == 2 else scale
    gaps = ((flow.decode(flow.encode(there)) - there) / size).abs().flatten(1).amax(1).nan_to_num(math.inf)
    return float(gaps.sort().values[-2])


def _extremes(shape: tuple[int, ...], levels: int) -> Tensor:
    """All black, all white, and the two one-pixel checkerboards, uint8 (4, C, H, W)."""
    board = (torch.arange(shape[1])[:, None] + torch.arange(shape[2])) % 2
    planes = torch.stack([torch.zeros_like(board), torch.ones_like(board), board, 1 - board]) * (levels - 1)
    return planes[:, None].expand(4, *shape).to(torch.uint8)


def _gap(a: Tensor, b: Tensor) -> float:
    """The largest distance; inf if anything is not finite."""
    gap = (a - b).abs().max().item()
    return gap if math.isfinite(gap) else math.inf


def _nonfinite(values: Tensor) -> float:
    return float((~values.isfinite()).sum())


def _layers(flow: Flow, x: Tensor) -> list[Check]:
    """The inverse of each layer, in the order of the flow, on the activations that x causes."""
    worst: dict[str, float] = {}
    with _recorded(flow) as calls:
        flow.encode(x)
    for name, layer, before, after in calls:
        error = _gap(layer.inverse(after), before) / max(1.0, before.abs().max().item())
        worst[f"inverse of layer {name}, {type(layer).__name__}"] = error
    return [Check(name, error, 1e-4, "relative") for name, error in worst.items()]


@contextmanager
def _recorded(flow: Flow) -> Iterator[list[tuple[str, Bijection, Tensor, Tensor]]]:
    """A list that gets (name, layer, input, output) of each layer without parts, in the order of the calls."""
    calls: list[tuple[str, Bijection, Tensor, Tensor]] = []

    def record(name: str) -> Any:
        return lambda layer, inputs, outputs: calls.append((name, layer, inputs[0], outputs[0]))

    leaves = [(name, module) for name, module in flow.named_modules() if isinstance(module, Bijection) and not _parts(module)]
    handles = [module.register_forward_hook(record(".".join(re.findall(r"\d+", name)))) for name, module in leaves]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _parts(module: nn.Module) -> bool:
    return any(isinstance(child, Bijection) for child in module.modules() if child is not module)


def _log_det_error(flow: Flow, x: Tensor) -> float:
    """|log_det - log |det J|| / D in float64, of a row, or of the smallest crop with the flow's number of scales."""
    assert flow.config is not None
    side = max(2, smallest_side(flow.config.model))
    double = copy.deepcopy(flow).cpu().double().eval()
    crop = x[:1, :, :side, :side].cpu().double() if x.ndim == 4 else x[:1].cpu().double()
    with torch.enable_grad():
        jacobian = torch.func.jacrev(lambda v: double.bijection(v)[0], chunk_size=64)(crop).reshape(crop.numel(), -1)
    log_det = double.bijection(crop)[1]
    return float((torch.linalg.slogdet(jacobian).logabsdet - log_det).abs()) / crop.numel()


def _moments(flow: Flow, data: NDArray[Any], x: Tensor) -> Iterator[Check]:
    """|bits/dim with stored moments - bits/dim with the batch's own|: what a user of batch norm has to fear."""
    if not stored_moments(flow):
        return
    trained = copy.deepcopy(flow).train()
    gap = flow.log_prob(x[: len(data)]).mean() - trained.log_prob(x[: len(data)]).mean()
    yield Check("stored moments against a batch's own", abs(in_bits_per_dim(gap.item(), x.shape[1:])), 0.2, "bits/dim")


def _conditions(flow: Flow) -> Iterator[Check]:
    """The largest condition number of the mixings: by how much one of them may magnify what float32 rounds."""
    if weights := [module.weight for module in flow.modules() if isinstance(module, Mixing)]:
        worst = max(torch.linalg.cond(weight.cpu().double()).item() for weight in weights)
        yield Check("condition number of the mixings", worst, 1e5, "largest over smallest axis")
