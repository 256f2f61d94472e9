"""The mathematics of the paper's figures: latents and pixels in, latents and numbers out.

Nothing here draws, and nothing has gradients.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections import latent_levels
from realnvp.bijections.base import float64_like
from realnvp.config import Shape
from realnvp.data import Split
from realnvp.evaluation.likelihood import View
from realnvp.flows.flow import Flow, Prior
from realnvp.progress import chunks
from realnvp.random import Purpose, generator


class Manifold(NamedTuple):
    """A grid of latents spanned by the latents of four images."""

    z: Tensor
    """(angles, angles, C, H, W): phi' from row to row, phi from column to column."""
    corners: tuple[tuple[int, int], ...]
    """(row, column) of z1 to z4; each is there again, half the angles further in both."""


def manifold(z: Tensor, *, angles: int = 8) -> Manifold:
    """Span a grid of latents by four latents (eq 14, figure 6).

    cos(phi) (cos(phi') z1 + sin(phi') z2) + sin(phi) (cos(phi') z3 + sin(phi') z4)

    z: z1 .. z4, (4, C, H, W).
    angles: phi and phi' are 2 pi k / angles for k = 0, 1, ...; a multiple of 4.

    z1 .. z4 themselves are on the grid, bit for bit: z1 at phi = phi' = 0. The squares of the
    weights add up to 1, so if z1 .. z4 are independent standard Gaussians, each point is Gaussian.
    """
    if z.ndim != 4 or len(z) != 4 or angles % 4:
        raise ValueError(
            f"z: expected the latents of four images, (4, C, H, W), got {tuple(z.shape)}"
        )
    phi = torch.arange(angles, dtype=torch.float64, device=z.device) * (2 * math.pi / angles)
    cos, sin = (torch.where(values.abs() < 1e-12, 0.0, values) for values in (phi.cos(), phi.sin()))
    down, along = (cos[:, None], sin[:, None]), (cos, sin)
    weights = torch.stack([b * a for a in along for b in down])  # (4, 8, 8)
    points = (weights[..., None, None, None].to(z) * z[:, None, None]).sum(0)
    quarter = angles // 4
    return Manifold(points, ((0, 0), (quarter, 0), (0, quarter), (quarter, quarter)))


def shares(num_scales: int) -> list[float]:
    """[1, .5, .25, ...]: the shares of the latents that can be kept, one a scale (appendix D)."""
    return [0.5**level for level in range(num_scales)]


def kept(height: int, width: int, *, num_scales: int, level: int) -> Tensor:
    """Mask the coarsest 2^-level of the latents: (H, W), True where they are kept.

    level: 0 keeps all. ValueError if there is no such level.
    """
    if not 0 <= level < num_scales:
        raise ValueError(
            f"level: {num_scales} scales have the levels 0 to {num_scales - 1}, got {level}"
        )
    return latent_levels(height, width, num_scales) >= level


def compress(
    z: Tensor, keep: Tensor, prior: Prior, *, seed: int = 0, indices: Sequence[int]
) -> Tensor:
    """z where keep is True, elsewhere a fresh draw from the prior (appendix D).

    z: (B, C, H, W).
    keep: (H, W).
    seed, indices: image i's draw is a function of (seed, indices[i]), and not of keep.
    """
    assert len(indices) == len(z)
    draws = [
        prior.sample(z.shape[1:], generator(seed, Purpose.RESAMPLE, index=int(i))) for i in indices
    ]
    return torch.where(keep.to(z.device), z, torch.stack(draws).to(z))


def extrapolated(shape: Shape, factor: int) -> Shape:
    """(C, factor H, factor W): the shape of an extrapolated sample (appendix C)."""
    if factor < 1:
        raise ValueError(f"factor: must be at least 1, got {factor}")
    return shape[0], factor * shape[1], factor * shape[2]


def centres(images: Tensor) -> Tensor:
    """v + 1/2 of images of grey levels, float32: the middle of each pixel's bin.

    Rounding keeps away from the bin's ends there, so floor(g(f(x))) is the image again.
    """
    return images.float() + 0.5


def encode(
    flow: Flow, x: Tensor, *, chunk: int = 64, report: Callable[[int], None] | None = None
) -> Tensor:
    """z = f(x), (N, C, H, W), of x in data units.

    chunk: images at once. report: told how many are done.
    """
    return _in_chunks(lambda part: flow.encode(part.to(float64_like(flow))), x, chunk, report)


def decode(
    flow: Flow, z: Tensor, *, chunk: int = 64, report: Callable[[int], None] | None = None
) -> Tensor:
    """x = g(z), (N, C, H, W), in data units.

    chunk: images at once. report: told how many are done.
    """
    return _in_chunks(flow.decode, z, chunk, report)


def _in_chunks(
    f: Callable[[Tensor], Tensor], x: Tensor, chunk: int, report: Callable[[int], None] | None
) -> Tensor:
    return torch.cat([f(x[part]) for part in chunks(len(x), chunk, report)])


def by_scale(z: Tensor, num_scales: int) -> list[Tensor]:
    """The entries of z, (N, C, H, W), that were factored out at scale 0, 1, ..., as vectors."""
    levels = latent_levels(z.shape[-2], z.shape[-1], num_scales).to(z.device)
    return [z[..., levels == scale].flatten() for scale in range(num_scales)]


def pixel_moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation at each pixel of z, (N, C, H, W): two (H, W), over images and channels."""
    return z.mean((0, 1)), z.std((0, 1), correction=0)


def normal_quantiles(values: Tensor) -> tuple[Tensor, Tensor]:
    """Quantiles of N(0, 1), and of the values at the same probabilities.

    They are equal if the values are standard normal. Of 81 quantiles of N(0, 1), from -4 to 4, only
    those with ten values beyond are given.
    """
    expected = torch.linspace(-4, 4, 81, dtype=torch.float64, device="cpu")
    place = torch.special.ndtr(expected) * len(values)
    inside = (place >= 10) & (place <= len(values) - 10)
    return expected[inside], values.cpu().double().sort().values[place[inside].long()]


class Neighbours(NamedTuple):
    """For each of some images, the nearest one in a data set."""

    where: Tensor
    """(Q,), the index in the data set."""
    distance: Tensor
    """(Q,), float64: root of the mean squared difference of pixels, in grey levels."""


def nearest_neighbours(
    images: Tensor,
    data: Split,
    *,
    views: Sequence[View] = (),
    chunk: int = 2**22,
    report: Callable[[int], None] | None = None,
) -> Neighbours:
    """Find the image of a data set that is nearest to each image.

    images: (Q, H, W, C), grey levels.
    data: (N, H, W, C), an array or what is indexed like one, perhaps on disk.
    views: compare each of these views of an image (`views_of`). (): the image itself only.
    chunk: pixels of the data set in memory at once.
    report: told how many images of the data set are done.

    Sums of squares are float64, hence exact.
    """
    count, size = len(images), math.prod(images.shape[1:])
    first = images.cpu().double().permute(0, 3, 1, 2)
    best = first.new_full((count,), math.inf)
    index = best.new_zeros(count, dtype=torch.long)
    for part in chunks(len(data), max(1, chunk // size), report):
        rows = torch.from_numpy(np.array(data[part])).double().flatten(1)
        for seen in (view(first) for view in views) if views else (first,):
            queries = seen.permute(0, 2, 3, 1).flatten(1)
            squares = queries.square().sum(1)[:, None] - 2 * queries @ rows.T + rows.square().sum(1)
            least, where = squares.min(1)
            index = torch.where(least < best, where + part.start, index)
            best = torch.minimum(least, best)
    return Neighbours(index, (best / size).sqrt())
