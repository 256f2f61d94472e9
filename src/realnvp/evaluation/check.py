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

from realnvp.bijections import InvertibleLinear
from realnvp.bijections.base import Bijection, float64_like, reference_tensor
from realnvp.config import Config, TableData, smallest_side
from realnvp.config.units import in_bits_per_dim
from realnvp.data import dequantize
from realnvp.flows.flow import ROWS, Flow, config_of, evaluating
from realnvp.moments import stored_moments
from realnvp.random import Purpose, generator, uniform


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


ACTIVATIONS = 2**30  # bytes that the largest feature maps of all checked images may take together
IMAGES = 64
Inputs = tuple[Tensor, ...]
"""Of a layer: x, and the condition if its networks see one."""
EXTREMES = "black, white, checkerboards"


def how_many(config: Config) -> int:
    """How many images, or rows of a table, `realnvp check` takes: memory is bounded for any size.

    1,024 rows. 64 images, or fewer where eight feature maps for each would take more than a GiB:
    with 32 channels 64 images of 64x64, 16 of 256x256, 4 of 512x512.
    """
    if isinstance(config.data, TableData):
        return ROWS
    each = 8 * 4 * config.model.width * math.prod(config.shape[1:])
    return min(IMAGES, max(1, ACTIVATIONS // each))


def check(
    flow: Flow, data: NDArray[Any], *, seed: int = 0, training: NDArray[Any] | None = None
) -> list[Check]:
    """Check inverses, log-det, batch norm and finite values of a flow on data.

    data: uint8 (N, C, H, W), or rows of a table, (N, D).
    seed: of noise and samples.
    training: data that the flow was trained on, where batch norm's moments come from. None: data.

    Networks compute in the flow's own type; for the log-det they, too, compute in float64.
    """
    config = config_of(flow)
    with evaluating(flow):
        if isinstance(config.data, TableData):
            x = _with_corners(flow, data)
            deviation = x[: len(data)].std(0, correction=0)
            scale = torch.where(deviation > 0, deviation, 1)
            bound, unit, what = 1e-6, "deviations", "rows, least, largest"
            far = "far out, 20 sigma, of its size, all rows but one"
        else:
            x = _with_extremes(flow, data, config.levels, seed)
            scale = x.new_ones(())
            bound, unit, what = 1e-3 * config.levels / 256, "grey levels", "images, " + EXTREMES
            far = "the same far out, 20 sigma, all images but one"
        samples = flow.sample(min(IMAGES, how_many(config)), seed=seed)
        return [
            *_layers(flow, x),
            Check(
                f"decode(encode(x)): {what}",
                _gap(flow.decode(flow.encode(x)) / scale, x / scale),
                bound,
                unit,
            ),
            Check(far, _far_out(flow, x, scale, seed), bound, unit),
            Check(
                "log-det against autograd, float64, of one",
                _log_det_error(flow, x),
                1e-9,
                "nats per dimension",
            ),
            *_moments(flow, data if training is None else training, seed),
            *_conditions(flow),
            Check(f"log_prob of {what}", _nonfinite(flow.log_prob(x)), 0, "not finite"),
            Check("samples", _nonfinite(samples), 0, "not finite"),
            Check("log_prob of the samples", _nonfinite(flow.log_prob(samples)), 0, "not finite"),
        ]


def _with_extremes(flow: Flow, images: NDArray[Any], levels: int, seed: int) -> Tensor:
    """v + u of the images, then of all black, all white, and two one-pixel checkerboards."""
    _, channels, height, width = images.shape
    board = torch.from_numpy(np.indices((height, width)).sum(0) % 2)
    planes = torch.stack([torch.zeros_like(board), torch.ones_like(board), board, 1 - board])
    extremes = ((levels - 1) * planes[:, None]).expand(4, channels, height, width)
    pixels = torch.from_numpy(images.copy())
    return _with_noise(flow, torch.cat([pixels, extremes.to(pixels.dtype)]), seed)


def _with_noise(flow: Flow, pixels: Tensor, seed: int) -> Tensor:
    """v + u of the pixels."""
    pixels = pixels.to(reference_tensor(flow).device)
    noise = uniform(pixels.shape[1:], seed, Purpose.EVALUATE, indices=range(len(pixels)))
    return dequantize(pixels, noise.to(float64_like(flow)))


def _with_corners(flow: Flow, rows: NDArray[Any]) -> Tensor:
    """The rows, then a row of every column's least value, then a row of every column's largest."""
    return torch.from_numpy(
        np.concatenate([rows, rows.min(0, keepdims=True), rows.max(0, keepdims=True)])
    ).to(float64_like(flow))


def _far_out(flow: Flow, x: Tensor, scale: Tensor, seed: int) -> float:
    """How far x = g(20 z), z ~ N(0, I), is off after encoding and decoding, in units of `scale`.

    The second largest error of all x. The largest is left out: one image in 10^4 has a number that
    float32 rounds to the other neighbour on the way back. Rows have no bounds, so an error beyond
    `scale` is relative to the entry.
    """
    far = torch.from_numpy(generator(seed, Purpose.SAMPLE).standard_normal(tuple(x.shape))).to(x)
    there = flow.decode(20 * far)
    size = torch.maximum(scale, there.abs()) if x.ndim == 2 else scale
    gaps = ((flow.decode(flow.encode(there)) - there) / size).abs().flatten(1).amax(1)
    return float(gaps.nan_to_num(math.inf).sort().values[-2])


def _gap(a: Tensor, b: Tensor) -> float:
    """The largest distance; inf if anything is not finite."""
    gap = (a - b).abs().max().item()
    return gap if math.isfinite(gap) else math.inf


def _nonfinite(values: Tensor) -> float:
    return float((~values.isfinite()).sum())


def _layers(flow: Flow, x: Tensor) -> list[Check]:
    """The inverse of each layer, in the order of the flow, on the activations that x causes."""
    checks: list[Check] = []

    def invert(name: str, layer: Bijection, inputs: Inputs, after: Tensor, _: Tensor) -> None:
        before, *context = inputs
        error = _gap(layer.inverse(after, *context), before) / max(1.0, before.abs().max().item())
        checks.append(
            Check(f"inverse of layer {name}, {type(layer).__name__}", error, 1e-4, "relative")
        )

    with _watching(flow, invert):
        flow.encode(x)
    return checks


@contextmanager
def _watching(
    flow: Flow, look: Callable[[str, Bijection, Inputs, Tensor, Tensor], None]
) -> Iterator[None]:
    """Context: look(name, layer, (x, given), z, log-det) is called for each layer as it computes.

    A layer is a bijection without bijections inside. Nothing is kept.
    """

    def hook(name: str) -> Any:
        return lambda layer, inputs, outputs: look(name, layer, inputs, *outputs)

    handles = [
        module.register_forward_hook(hook(".".join(re.findall(r"\d+", name))))
        for name, module in flow.named_modules()
        if isinstance(module, Bijection) and not _has_parts(module)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _has_parts(module: nn.Module) -> bool:
    return any(isinstance(child, Bijection) for child in module.modules() if child is not module)


def _log_det_error(flow: Flow, x: Tensor, *, most: int = 4096) -> float:
    """|log_det - log |det J|| / D in float64 of one row, or of one crop.

    The crop is the smallest that the flow's scales can divide. J has D x D numbers, too many if D
    is above `most`, as with seven scales. Then each layer is compared on a part of its input, and
    the flow's log-det with the sum over its layers; the largest error counts. This is enough, since
    all else in a flow only moves numbers.
    """
    side = max(2, smallest_side(config_of(flow).model))
    double = copy.deepcopy(flow).cpu().double().eval()
    crop = x[:1, :, :side, :side].cpu().double() if x.ndim == 4 else x[:1].cpu().double()
    if crop.numel() <= most:
        return _of_jacobian(double.bijection, crop)
    errors: list[float] = []
    terms: list[Tensor] = []

    def compare(
        name: str, layer: Bijection, inputs: Inputs, after: Tensor, log_det: Tensor
    ) -> None:
        before, *context = inputs
        few = 2 * max(1, math.isqrt(most // 4 // before.shape[1]) // 2)
        part = before[..., :few, :few] if before.ndim == 4 else before
        errors.append(_of_jacobian(layer, part, *context))
        terms.append(log_det)

    with _watching(double, compare):
        whole = double.bijection(crop)[1]
    return max(*errors, float((whole - torch.stack(terms).sum(0)).abs().detach()) / crop.numel())


def _of_jacobian(bijection: Bijection, x: Tensor, *context: Tensor) -> float:
    """|log_det - log |det J|| / D of one x.

    Calls `forward` itself, so that hooks are not called again.
    """

    def f(v: Tensor) -> tuple[Tensor, Tensor]:
        return bijection.forward(v, *context)

    with torch.enable_grad():
        rows = torch.func.jacrev(lambda v: f(v)[0], chunk_size=64)(x).reshape(x.numel(), -1)
    expected = torch.linalg.slogdet(rows).logabsdet
    error = float((expected - f(x)[1]).abs().detach()) / x.numel()
    return error if math.isfinite(error) else math.inf


def _moments(flow: Flow, data: NDArray[Any], seed: int) -> Iterator[Check]:
    """|bits/dim with stored moments - bits/dim with the batch's|: batch norm's risk.

    The moments of few images stray, so the bound is larger below 16 images. With the photos preset
    after 200 steps the gap was at most 1.0, .50, .36, .23, .10, .05 for 1, 2, 4, 8, 16, 32 images,
    and 3 to 5 with each variance doubled.
    """
    if not stored_moments(flow):
        return
    x = torch.from_numpy(data.copy())
    x = x.to(float64_like(flow)) if x.ndim == 2 else _with_noise(flow, x, seed)
    gap = flow.log_prob(x).mean() - copy.deepcopy(flow).train().log_prob(x).mean()
    yield Check(
        "stored moments against a batch's own",
        abs(in_bits_per_dim(gap.item(), x.shape[1:])),
        0.2 * max(1.0, 16 / len(x)),
        "bits/dim",
    )


def _conditions(flow: Flow) -> Iterator[Check]:
    """The largest condition number of a mixing, by which it may magnify rounding in float32."""
    if weights := [
        module.weight for module in flow.modules() if isinstance(module, InvertibleLinear)
    ]:
        worst = max(torch.linalg.cond(weight.cpu().double()).item() for weight in weights)
        yield Check("condition number of the mixings", worst, 1e5, "largest over smallest axis")
