"""Numbers about a trained flow: bits per dimension of images, nats of a table's rows."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations, product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from realnvp.bijections.base import float64_like
from realnvp.config import DataConfig, ImageData, Shape, TableData
from realnvp.config.errors import ParameterError, as_uint8, in_order
from realnvp.config.fields import AT_LEAST_ONE, check_number
from realnvp.config.units import BITS_PER_DIM, LOG_LIKELIHOOD, in_bits_per_dim, unit_of
from realnvp.data import dequantize
from realnvp.device import as_tensor, moved
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, batch_that_fits, evaluating, refuse_fast
from realnvp.progress import chunks
from realnvp.random import Purpose, uniform

View = Callable[[Tensor], Tensor]
"""(B, C, H, W) -> (B, C, H, W): permutes pixels and channels, so it changes no volume."""
MOST_CHANNELS = 6
"""Most channels that channel_shuffle may permute: 6 have 720 orders."""


def _augment(data: DataConfig) -> tuple[str, ...]:
    return (
        () if isinstance(data, TableData) else tuple(a for a in data.augment if a != "brightness")
    )


def several_views(data: DataConfig, shape: Shape) -> bool:
    """Whether training showed an image of this shape in more ways than one."""
    return bool({*_augment(data)} - ({"channel_shuffle"} if shape[0] == 1 else set()))


def views_of(data: DataConfig, shape: Shape) -> list[View]:
    """All combinations of data.augment: 2 to 48 views of colour images.

    They form a group; the first view is the image itself. ValueError if there is no other view, if
    turns do not keep this shape, or if there are more than MOST_CHANNELS channels to permute.
    """
    channels, height, width = shape
    augment = _augment(data)
    if "rotate90" in augment and height != width:
        raise ParameterError("views", f"turned images must be square, these are {height}x{width}")
    if "channel_shuffle" in augment and channels > MOST_CHANNELS:
        raise ParameterError("views", f"{channels} channels have too many orders")
    if not several_views(data, shape):
        raise ParameterError("views", "training shows such an image as it is (data.augment)")
    orders = (
        [*permutations(range(channels))]
        if "channel_shuffle" in augment
        else [tuple(range(channels))]
    )
    return [
        partial(_view, mirror=mirror, turns=turns, order=list(order))
        for order, turns, mirror in product(
            orders,
            range(4 if "rotate90" in augment else 1),
            (False, True) if "hflip" in augment else (False,),
        )
    ]


def _view(x: Tensor, *, mirror: bool, turns: int, order: list[int]) -> Tensor:
    return torch.rot90(x.flip(3) if mirror else x, turns, dims=(2, 3))[:, order]


def averaged(log_prob: Callable[[Tensor], Tensor], x: Tensor, views: Sequence[View]) -> Tensor:
    """(B,), nats: log of the mean of p(T x) over the views T.

    The mean is a density, too, since no T changes a volume.
    """
    return torch.stack([log_prob(view(x)) for view in views]).logsumexp(0) - math.log(len(views))


Images = Tensor | NDArray[Any]
WHOLE = (torch.uint8, np.uint8, torch.uint16, np.uint16)
"""Types of grey levels."""


class Summary(NamedTuple):
    """A mean over images, or over a table's rows."""

    mean: float
    """Not finite if one value is not."""
    standard_error: float
    """Over images, or over groups of them; nan for a single one."""
    nonfinite: int
    """How many values are not finite."""


class BitsPerDim(NamedTuple):
    """-log2 p(x) / D over a set of images.

    It bounds the bits that a lossless code needs for each channel of each pixel.
    """

    mean: float
    """Over all images; not finite if one of them is not."""
    standard_error: float
    """Over images, or over groups of them; nan for a single one."""
    per_image: Tensor
    """(N,), float64."""
    nonfinite: int
    """How many images have no finite value."""


def bits_per_dim(
    flow: Flow,
    images: Images,
    *,
    noise_draws: int = 1,
    seed: int = 0,
    views: bool = False,
    context: Any = None,
    groups: Sequence[int] | NDArray[np.int64] | None = None,
    batch_size: int = 64,
) -> BitsPerDim:
    """Bits/dim of images under uniform dequantization (sections 4.1-4.2), in eval mode.

    images: uint8 or uint16, (N, C, H, W).
    noise_draws: log p is averaged over them.
    seed: image i's noise is a function of (seed, i, draw), whatever the batch size.
    views: average the density over the views that training showed (`views_of`).
    given: the class of each image, of a flow that is given classes. None: of the mixture.
    groups: which images belong together, as crops of one photograph; clusters the standard error.
    batch_size: images at once; fewer where they are large.

    For a flow with `VariationalDequantization` this is the bound of variational dequantization.
    """
    refuse_fast(flow, "report the numbers of")
    if unit_of(flow.config) is not BITS_PER_DIM:
        raise ValueError(
            "bits/dim is of images; this flow is of a table: "
            "flow.log_prob(rows).mean() is its log-likelihood"
        )
    per_image = in_bits_per_dim(
        log_probs(
            flow,
            images,
            noise_draws=noise_draws,
            seed=seed,
            context=context,
            views=views,
            batch_size=batch_size,
        ),
        images.shape[1:],
    )
    summary = summarise(per_image, groups)
    return BitsPerDim(summary.mean, summary.standard_error, per_image, summary.nonfinite)


def summarise(
    per_image: Tensor, groups: Sequence[int] | NDArray[np.int64] | None = None
) -> Summary:
    """Mean and standard error of a number for each image or row.

    groups: which belong together; the error is then clustered by group.
    """
    mean = per_image.mean()
    if groups is not None and len(groups) != len(per_image):
        raise ValueError(f"groups: {len(groups)} of them for {len(per_image)} images")
    _, labels = np.unique(
        np.arange(len(per_image)) if groups is None else np.asarray(groups), return_inverse=True
    )
    members, count = torch.from_numpy(labels), int(labels.max()) + 1
    deviations = per_image.new_zeros(count).index_add_(0, members, per_image - mean)
    total = deviations.square().sum()
    variance = total * count / (count - 1) if count > 1 else total * math.nan
    nonfinite = int((~per_image.isfinite()).sum())
    return Summary(mean.item(), variance.sqrt().item() / len(per_image), nonfinite)


def log_probs(
    flow: Flow,
    images: Images,
    *,
    noise_draws: int = 1,
    seed: int = 0,
    context: Any = None,
    indices: Sequence[int] | None = None,
    views: bool = False,
    batch_size: int = 64,
    on_device: bool = False,
) -> Tensor:
    """log p in nats, (N,), float64, of images or of a table's rows.

    Of a flow given classes log p(x | c), or where no c is given log p of their mixture.

    images: uint8 or uint16, (N, C, H, W), or rows, real numbers (N, D), which get no noise.
    noise_draws: draws of the noise; log p is averaged over them.
    seed: of the noise.
    given: c of all images, or of each; of a flow that is given classes.
    indices: the noise of image i is a function of indices[i]. None: 0, 1, 2, ...
    views: average p over the views that training showed (`views_of`), then take the log.
    batch_size: images at once; fewer where they are large.
    on_device: leave the result on the flow's device, without waiting for it.

    ValueError if the images are no grey levels, have levels that the flow lacks, or have no views.
    """
    if unit_of(flow.config) is LOG_LIKELIHOOD:
        if views:
            raise ValueError("views: are of images; this flow is of a table")
        rows = images if isinstance(images, Tensor) else as_tensor(images)
        nats = _of_rows(flow, rows, context)
        return nats if on_device else nats.cpu().double()
    _check(flow, images)
    noise_draws = check_number("noise_draws", noise_draws, int, AT_LEAST_ONE)
    batch_size = check_number("batch_size", batch_size, int, AT_LEAST_ONE)
    batch_size = min(batch_size, batch_that_fits(images.shape[1:]))
    indices = range(len(images)) if indices is None else indices
    if len(indices) != len(images):
        raise ParameterError("indices", f"{len(indices)} of them for {len(images)} images")
    # Parts stay on the device until the end: to look at a part is to wait for the device.
    state, parts = float64_like(flow), []
    shown = (
        views_of(flow.config.data if flow.config else ImageData(), images.shape[1:])
        if views
        else [nn.Identity()]
    )
    mixture = context is None and isinstance(flow.condition, Classes)
    c = None if mixture else flow.condition_of_each(context, len(images))

    def density(x: Tensor, rows: slice) -> Tensor:
        if mixture:
            return flow.mixture_log_prob(x)
        return flow.log_prob(x, None if c is None else c[rows])

    with evaluating(flow), warnings.catch_warnings():
        # Images come as integers, so these are in the flow's units, however dark.
        warnings.filterwarnings("ignore", "x: up to")
        for batch in chunks(len(images), batch_size):
            pixels = moved(_tensor(images[batch], flow), state.device)
            total = state.new_zeros(len(pixels))
            for draw in range(noise_draws):
                noise = uniform(
                    pixels.shape[1:], seed, Purpose.EVALUATE, indices=indices[batch], round=draw
                )
                x = dequantize(pixels, moved(noise, state.device).to(state))
                total += averaged(partial(density, rows=batch), x, shown)
            parts.append(total)
    nats = torch.cat(parts) / noise_draws
    return nats if on_device else nats.cpu().double()


def _of_rows(flow: Flow, rows: Tensor, context: Any) -> Tensor:
    state, size = float64_like(flow), batch_that_fits(rows.shape[1:])
    c, parts = flow.condition_of_each(context, len(rows)), []
    with evaluating(flow):
        for chunk in chunks(len(rows), size):
            part = moved(rows[chunk].to(state.dtype), state.device)
            parts.append(flow.log_prob(part, None if c is None else c[chunk]))
        return torch.cat(parts)


def _check(flow: Flow, images: Images) -> None:
    numpy = isinstance(images, np.ndarray)
    if not isinstance(images, Tensor | np.ndarray) or images.dtype not in WHOLE:
        dtype = getattr(images, "dtype", None)
        remedy = "" if dtype is None else f"; {as_uint8('images', dtype, numpy=numpy)}"
        if dtype is not None and "float" in str(dtype):
            remedy += ", x = v + u by realnvp.quantize(images)"
        raise ValueError(f"images: expected uint8, got {dtype or type(images).__name__}{remedy}")
    shape, on_meta = tuple(images.shape), isinstance(images, Tensor) and images.is_meta
    wrong = len(shape) != 4 or not len(images) or on_meta
    if wrong or (flow.shape and shape[1] != flow.shape[0]):
        count = f" and C = {flow.shape[0]}" if flow.shape else ""
        order = in_order("images", shape, flow.shape, numpy=numpy) if flow.shape else ""
        raise ValueError(
            f"images: expected (N, C, H, W) with N > 0{count}, got {shape}{order}"
            + " on meta" * on_meta
        )


def _tensor(images: Images, flow: Flow) -> Tensor:
    pixels = images if isinstance(images, Tensor) else as_tensor(images)
    levels = getattr(flow.config and flow.config.data, "levels", None)
    # torch has no maximum of uint16.
    if levels and (largest := int(pixels.to(torch.int32).max())) >= levels:
        numpy = isinstance(images, np.ndarray)
        deep = levels == 256 and pixels.dtype == torch.uint16
        remedy = f"; {as_uint8('images', images.dtype, numpy=numpy)}" if deep else ""
        raise ValueError(
            f"images: a pixel is {largest}, but the flow knows the levels 0 to {levels - 1}{remedy}"
        )
    return pixels
