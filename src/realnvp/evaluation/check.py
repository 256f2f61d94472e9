"""Is this flow, with its weights and on its data, the exact density that it claims to be?"""

import copy
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from realnvp.bijections import Mixing
from realnvp.bijections.base import Bijection
from realnvp.bijections.precision import float64_like, reference_tensor
from realnvp.config import Config, Kind, smallest_side
from realnvp.config.units import in_bits_per_dim
from realnvp.data import dequantise
from realnvp.flows.flow import ROWS, Flow, config_of, evaluating
from realnvp.moments import stored_moments
from realnvp.noise import Purpose, generator, uniform


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


ACTIVATIONS = 2**30  # bytes: what the largest feature maps of all images that are checked take together
IMAGES = 64


def how_many(config: Config) -> int:
    """How many images, or rows of a table, `realnvp check` takes, so that memory does not grow with their size.

    64, or fewer where eight feature maps of a network for each of them would take more than a GiB: of 32 channels 64 of 64x64,
    16 of 256x256, 4 of 512x512. Of a table 1,024 rows.
    """
    if config.kind is Kind.TABLE:
        return ROWS
    each = 8 * 4 * config.model.width * math.prod(config.shape[1:])
    return min(IMAGES, max(1, ACTIVATIONS // each))


def check(flow: Flow, data: NDArray[Any], *, seed: int = 0, training: NDArray[Any] | None = None) -> list[Check]:
    """Invertibility of each layer and of the whole, log-det against autograd, batch norm's agreement, finite values.

    data: some of it, uint8 (N, C, H, W), or rows of a table, (N, D). All but the log-det in the flow's own precision.
    training: some of what it was trained on, for batch norm, whose moments are of those; the same data when not given.
    """
    config = config_of(flow)
    with evaluating(flow):
        if config.kind is Kind.TABLE:
            x, far = _with_corners(flow, data), "far out, 20 sigma, of its size, all rows but one"
            deviation = x[: len(data)].std(0, correction=0)
            scale = torch.where(deviation > 0, deviation, 1)
            bound, unit, what = 1e-6, "deviations", "rows, least, largest"
        else:
            x, far = _with_extremes(flow, data, config.levels, seed), "the same far out, 20 sigma, all images but one"
            scale, bound, unit = x.new_ones(()), 1e-3 * config.levels / 256, "grey levels"
            what = "images, black, white, checkerboards"
        samples = flow.sample(min(IMAGES, how_many(config)), seed=seed)
        return [
            *_layers(flow, x),
            Check(f"decode(encode(x)): {what}", _gap(flow.decode(flow.encode(x)) / scale, x / scale), bound, unit),
            Check(far, _far_out(flow, x, scale, seed), bound, unit),
            Check("log-det against autograd, float64, of one", _log_det_error(flow, x), 1e-9, "nats per dimension"),
            *_moments(flow, data if training is None else training, seed),
            *_conditions(flow),
            Check(f"log_prob of {what}", _nonfinite(flow.log_prob(x)), 0, "not finite"),
            Check("samples", _nonfinite(samples), 0, "not finite"),
            Check("log_prob of the samples", _nonfinite(flow.log_prob(samples)), 0, "not finite"),
        ]


def _with_extremes(flow: Flow, images: NDArray[Any], levels: int, seed: int) -> Tensor:
    """v + u of the images, and of the extremes behind them."""
    return _with_noise(flow, torch.cat([torch.from_numpy(images.copy()), _extremes(images.shape[1:], levels)]), seed)


def _with_noise(flow: Flow, pixels: Tensor, seed: int) -> Tensor:
    """v + u of the pixels."""
    pixels = pixels.to(reference_tensor(flow).device)
    noise = uniform(pixels.shape[1:], seed, Purpose.EVALUATE, indices=range(len(pixels)))
    return dequantise(pixels, noise.to(float64_like(flow)))


def _with_corners(flow: Flow, rows: NDArray[Any]) -> Tensor:
    """The rows, and behind them one with the least value of each column, and one with the largest."""
    return torch.from_numpy(np.concatenate([rows, rows.min(0, keepdims=True), rows.max(0, keepdims=True)])).to(float64_like(flow))


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
    checks: list[Check] = []

    def invert(name: str, layer: Bijection, before: Tensor, after: Tensor, _: Tensor) -> None:
        error = _gap(layer.inverse(after), before) / max(1.0, before.abs().max().item())
        checks.append(Check(f"inverse of layer {name}, {type(layer).__name__}", error, 1e-4, "relative"))

    with _watching(flow, invert):
        flow.encode(x)
    return checks


@contextmanager
def _watching(flow: Flow, look: Callable[[str, Bijection, Tensor, Tensor, Tensor], None]) -> Iterator[None]:
    """Within it, look is called with name, layer, x, z and log-det by each layer without parts as it computes; none are kept."""

    def hook(name: str) -> Any:
        return lambda layer, inputs, outputs: look(name, layer, inputs[0], *outputs)

    leaves = [(name, module) for name, module in flow.named_modules() if isinstance(module, Bijection) and not _parts(module)]
    handles = [module.register_forward_hook(hook(".".join(re.findall(r"\d+", name)))) for name, module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parts(module: nn.Module) -> bool:
    return any(isinstance(child, Bijection) for child in module.modules() if child is not module)


def _log_det_error(flow: Flow, x: Tensor, *, most: int = 4096) -> float:
    """|log_det - log |det J|| / D in float64, of a row, or of the smallest crop with the flow's number of scales.

    J has D x D numbers. Where D is more than so many, as with seven scales, it is the worst of the layers, each on a part of what
    it sees there, and of the sum of their log-dets: what else is in a flow only moves numbers to other places.
    """
    side = max(2, smallest_side(config_of(flow).model))
    double = copy.deepcopy(flow).cpu().double().eval()
    crop = x[:1, :, :side, :side].cpu().double() if x.ndim == 4 else x[:1].cpu().double()
    if crop.numel() <= most:
        return _of_jacobian(double.bijection, crop)
    errors: list[float] = []
    terms: list[Tensor] = []

    def compare(name: str, layer: Bijection, before: Tensor, after: Tensor, log_det: Tensor) -> None:
        few = 2 * max(1, math.isqrt(most // 4 // before.shape[1]) // 2)
        errors.append(_of_jacobian(layer, before[..., :few, :few] if before.ndim == 4 else before))
        terms.append(log_det)

    with _watching(double, compare):
        whole = double.bijection(crop)[1]
    return max(*errors, float((whole - torch.stack(terms).sum(0)).abs().detach()) / crop.numel())


def _of_jacobian(bijection: Bijection, x: Tensor) -> float:
    """|log_det - log |det J|| / D of one x. Calls forward itself, so that no hook is called again."""
    with torch.enable_grad():
        jacobian = torch.func.jacrev(lambda v: bijection.forward(v)[0], chunk_size=64)(x).reshape(x.numel(), -1)
    error = float((torch.linalg.slogdet(jacobian).logabsdet - bijection.forward(x)[1]).abs().detach()) / x.numel()
    return error if math.isfinite(error) else math.inf


def _moments(flow: Flow, data: NDArray[Any], seed: int) -> Iterator[Check]:
    """|bits/dim with stored moments - bits/dim with the batch's own|: what a user of batch norm has to fear.

    The moments of few images stray, so fewer than 16 are allowed more: of the photos preset after 200 steps the gap was at most
    1.0, .50, .36, .23, .10 and .05 for 1, 2, 4, 8, 16 and 32 images, and 3 to 5 with each variance doubled.
    """
    if not stored_moments(flow):
        return
    x = torch.from_numpy(data.copy())
    x = x.to(float64_like(flow)) if x.ndim == 2 else _with_noise(flow, x, seed)
    trained = copy.deepcopy(flow).train()
    gap = flow.log_prob(x).mean() - trained.log_prob(x).mean()
    bound = 0.2 * max(1.0, 16 / len(x))
    yield Check("stored moments against a batch's own", abs(in_bits_per_dim(gap.item(), x.shape[1:])), bound, "bits/dim")


def _conditions(flow: Flow) -> Iterator[Check]:
    """The largest condition number of the mixings: by how much one of them may magnify what float32 rounds."""
    if weights := [module.weight for module in flow.modules() if isinstance(module, Mixing)]:
        worst = max(torch.linalg.cond(weight.cpu().double()).item() for weight in weights)
        yield Check("condition number of the mixings", worst, 1e5, "largest over smallest axis")
