"""The latent space: encode, interpolate, resample, compare with N(0, 1); nearest images."""

import math
from collections.abc import Sequence
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections import latent_levels
from realnvp.bijections.base import float64_like
from realnvp.data.dataset import Split
from realnvp.flows.flow import Flow, Prior
from realnvp.progress import track_slices
from realnvp.random import Purpose, generator


def encode(flow: Flow, x: Tensor, *, batch_size: int = 64) -> Tensor:
    """z = f(x), (N, C, H, W), of x in data units."""
    like = float64_like(flow)
    slices = track_slices(len(x), batch_size, "encode")
    return torch.cat([flow.encode(x[part].to(like)) for part in slices])


def decode(flow: Flow, z: Tensor, *, batch_size: int = 64) -> Tensor:
    """x = g(z), (N, C, H, W), in data units."""
    return torch.cat([flow.decode(z[part]) for part in track_slices(len(z), batch_size, "decode")])


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
    if len(z) != 4 or angles % 4:
        raise ValueError(f"z: expected four latents and angles in fours, got {len(z)}, {angles}")
    phi = torch.arange(angles, dtype=torch.float64, device=z.device) * (2 * math.pi / angles)
    cos, sin = (torch.where(values.abs() < 1e-12, 0.0, values) for values in (phi.cos(), phi.sin()))
    down, along = (cos[:, None], sin[:, None]), (cos, sin)
    weights = torch.stack([b * a for a in along for b in down])  # (4, angles, angles)
    points = (weights[..., None, None, None].to(z) * z[:, None, None]).sum(0)
    quarter = angles // 4
    return Manifold(points, ((0, 0), (quarter, 0), (0, quarter), (quarter, quarter)))


def kept(height: int, width: int, *, num_scales: int, level: int) -> Tensor:
    """(H, W): True at the coarsest 2^-level of the latents, 0 <= level < num_scales."""
    return latent_levels(height, width, num_scales) >= level


def compress(
    z: Tensor, keep: Tensor, prior: Prior, *, seed: int = 0, indices: Sequence[int]
) -> Tensor:
    """z where keep is True, elsewhere a fresh draw from the prior (appendix D).

    z: (B, C, H, W).
    keep: (H, W).
    seed, indices: image i's draw is a function of (seed, indices[i]), and not of keep.
    """
    rngs = [generator(seed, Purpose.RESAMPLE, index=int(i)) for i in indices]
    fresh = torch.stack([prior.sample(z.shape[1:], rng) for rng in rngs])
    return torch.where(keep.to(z.device), z, fresh.to(z))


def by_scale(z: Tensor, num_scales: int) -> list[Tensor]:
    """The entries of z, (N, C, H, W), that were factored out at scale 0, 1, ..., as vectors."""
    levels = latent_levels(z.shape[-2], z.shape[-1], num_scales).to(z.device)
    return [z[..., levels == scale].flatten() for scale in range(num_scales)]


def normal_quantiles(values: Tensor) -> tuple[Tensor, Tensor]:
    """Quantiles of N(0, 1) from -4 to 4, and of values, (N,), at the same probabilities.

    Only quantiles with ten values beyond them.
    """
    expected = torch.linspace(-4, 4, 81, dtype=torch.float64, device="cpu")
    place = torch.special.ndtr(expected) * len(values)
    inside = (place >= 10) & (place <= len(values) - 10)
    return expected[inside], values.cpu().double().sort().values[place[inside].long()]


def augmented(images: Tensor, augment: Sequence[str]) -> list[Tensor]:
    """Images, (N, C, H, W), in all ways in which training may have shown them; first as they are.

    augment: `data.augment`; brightness is left out.
    """
    channels = range(images.shape[1])
    orders = permutations(channels) if "channel_shuffle" in augment else [channels]
    turns = range(4 if "rotate90" in augment else 1)
    flips: list[list[int]] = [[], [3]] if "hflip" in augment else [[]]
    return [
        torch.rot90(images[:, [*order]].flip(axes), turn, dims=(2, 3))
        for order, turn, axes in product(orders, turns, flips)
    ]


class Neighbors(NamedTuple):
    """The nearest image of a data set to each of Q images."""

    nearest: Tensor
    """(Q,): its index in the data set."""
    distance: Tensor
    """(Q,), float64: root of the mean squared difference of pixels, in gray levels."""


def nearest_neighbors(
    images: Tensor, data: Split, *, augment: Sequence[str] = (), chunk: int = 2**22
) -> Neighbors:
    """Find the nearest image of a data set to each image, augmented in every way.

    images: (Q, H, W, C), gray levels.
    data: (N, H, W, C), perhaps on disk.
    augment: `data.augment` of the training; brightness is left out.
    chunk: entries of the data set in memory at once.

    Sums of squares are float64, hence exact.
    """
    size, seen = math.prod(images.shape[1:]), images.cpu().double().permute(0, 3, 1, 2)
    queries = [each.permute(0, 2, 3, 1).flatten(1) for each in augmented(seen, augment)]
    best = seen.new_full((len(images),), math.inf)
    index = best.new_zeros(len(images), dtype=torch.long)
    for part in track_slices(len(data), max(1, chunk // size), "neighbors"):
        rows = torch.from_numpy(np.array(data[part])).double().flatten(1)
        for query in queries:
            squares = query.square().sum(1)[:, None] - 2 * query @ rows.T + rows.square().sum(1)
            least, where = squares.min(1)
            index = torch.where(least < best, where + part.start, index)
            best = torch.minimum(least, best)
    return Neighbors(index, (best / size).sqrt())
