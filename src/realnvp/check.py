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

from realnvp.bijections.base import Bijection, like
from realnvp.config import smallest_side
from realnvp.data import dequantise
from realnvp.flow import Flow, state_like
from realnvp.likelihood import bits_per_dim, evaluating, in_bits_per_dim
from realnvp.noise import Purpose, generator, uniform

Pixels = NDArray[np.uint8]


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


def check(flow: Flow, images: Pixels, *, seed: int = 0) -> list[Check]:
    """Invertibility of each layer and of the whole, log-det against autograd, batch norm's agreement, finite values.

    images: uint8 (N, C, H, W), some of the data. All but the log-det in the flow's own precision.
    """
    with evaluating(flow):
        pixels = torch.cat([torch.from_numpy(images.copy()), _extremes(images.shape[1:], _levels(flow))]).to(like(flow).device)
        noise = uniform(pixels.shape[1:], seed, Purpose.EVALUATE, indices=range(len(pixels)))
        x = dequantise(pixels, noise.to(state_like(flow)))
        back, grey = flow.decode(flow.encode(x)), _levels(flow) / 256
        return [
            *_layers(flow, x),
            Check("decode(encode(x)): images, black, white, checkerboards", _gap(back, x), 1e-3 * grey, "grey levels"),
            Check("the same far out, 20 sigma, all images but one", _far_out(flow, x, seed), 1e-3 * grey, "grey levels"),
            Check("log-det against autograd, float64, of a crop", _log_det_error(flow, x), 1e-9, "nats per dimension"),
            Check("stored moments against a batch's own", _moments_gap(flow, images, seed), 0.2, "bits/dim"),
            Check("log_prob of images, black, white, checkerboards", _nonfinite(flow.log_prob(x)), 0, "not finite"),
            Check("samples", _nonfinite(flow.sample(64, seed=seed)), 0, "not finite"),
            Check("log_prob of the samples", _nonfinite(flow.log_prob(flow.sample(64, seed=seed))), 0, "not finite"),
        ]


def _far_out(flow: Flow, x: Tensor, seed: int) -> float:
    """By how much images that latents of 20 standard deviations make change on the way there and back, all but the worst.

    One image in 10^4 has a number that the way back rounds, for a network, to the other neighbour in float32.
    """
    far = torch.from_numpy(generator(seed, Purpose.SAMPLE).standard_normal(tuple(x.shape))).to(x)
    image = flow.decode(20 * far)
    gaps = (flow.decode(flow.encode(image)) - image).abs().flatten(1).amax(1).nan_to_num(math.inf)
    return float(gaps.sort().values[-2])


def _levels(flow: Flow) -> int:
    assert flow.config is not None
    return flow.config.data.levels


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
    """|log_det - log |det J|| / D in float64 on the smallest crop with the flow's number of scales."""
    assert flow.config is not None
    side = max(2, smallest_side(flow.config.model))
    double = copy.deepcopy(flow).cpu().double().eval()
    crop = x[:1, :, :side, :side].cpu().double()
    with torch.enable_grad():
        jacobian = torch.func.jacrev(lambda v: double.bijection(v)[0], chunk_size=64)(crop).reshape(crop.numel(), -1)
    log_det = double.bijection(crop)[1]
    return float((torch.linalg.slogdet(jacobian).logabsdet - log_det).abs()) / crop.numel()


def _moments_gap(flow: Flow, images: Pixels, seed: int) -> float:
    """|bits/dim with stored moments - bits/dim with the batch's own|: what a user of batch norm has to fear."""
    stored = bits_per_dim(flow, images, seed=seed).mean
    trained = copy.deepcopy(flow).train()
    pixels = torch.from_numpy(images.copy()).to(like(flow).device)
    noise = uniform(pixels.shape[1:], seed, Purpose.EVALUATE, indices=range(len(pixels)))
    nats = trained.log_prob(dequantise(pixels, noise.to(like(flow))))
    return abs(stored - in_bits_per_dim(nats.mean().item(), pixels.shape[1:]))
