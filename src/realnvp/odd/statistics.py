"""What one pass of a flow tells about each place of an image."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from realnvp.bijections import latent_levels
from realnvp.flows.flow import Flow, config_of, prior_map
from realnvp.tools.progress import chunks

CELL = 4
"""Side of a place, in pixels."""
WIDTHS = (4.0, 8.0)
"""Standard deviations, in pixels, of the Gaussians that statistics are smoothed by."""
ROWS = 256
"""Of an image, at once: so little memory is needed for large ones. A multiple of `CELL`."""
LEAST = 0.01
"""Added to z^2 before its logarithm, which a single z near 0 would rule."""


def statistics(flow: Flow, x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log p of each image, (B,), in nats, and statistics of its places, (B, K, H / 4, W / 4).

    Means over a neighbourhood, in each of `WIDTHS`, from one pass of the flow:
        nats        log N(z) and log-scales, for the latents of each scale
        log z^2     for the latents of each scale, and of all; low where an image is too regular
        z^2         of all latents; 1 where an image is like the training's
        log-scales  of all latents; high where the flow finds an image smooth

    x: images as the flow takes them.
    size: (H, W), of the part that counts: the upper left.
    """
    z, terms = flow.bijection.forward_map(x)
    height, width = size
    scales = _scales(*x.shape[2:], config_of(flow).model.num_scales or 1)[..., :width]
    scales = scales.to(z.device)
    log_prob, parts = z.new_zeros(z.shape[0]), []
    for rows in chunks(height, ROWS):
        part, part_terms = z[:, :, rows, :width], terms[:, :, rows, :width]
        log_prob += (prior_map(flow.prior, part) + part_terms).flatten(1).sum(1)
        parts.append(_cells(part.float(), part_terms.float(), scales[:, rows]))
    cells, weights = (torch.cat(some, dim=2) for some in zip(*parts, strict=True))
    smooth = [
        smoothed(cells, deviation / CELL) / smoothed(weights, deviation / CELL).clamp(min=1e-6)
        for deviation in WIDTHS
    ]
    return log_prob, torch.cat(smooth, dim=1)


def _cells(z: Tensor, terms: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Means over squares of `CELL` pixels, (B, K, h, w), and the share of pixels in each mean.

    scales: (S, H, W), 1 where a pixel of z belongs to the scale.
    """
    squares, log_scales = z.square().mean(1, keepdim=True), terms.mean(1, keepdim=True)
    nats, log_squares = log_scales - squares / 2, (squares + LEAST).log()
    maps = torch.cat([nats * scales, log_squares * scales, log_squares, squares, log_scales], 1)
    all_of_them = torch.ones_like(scales[:1]).expand(3, -1, -1)
    weights = torch.cat([scales, scales, all_of_them])[None]
    return F.avg_pool2d(maps, CELL, ceil_mode=True), F.avg_pool2d(weights, CELL, ceil_mode=True)


@lru_cache(maxsize=8)
def _scales(height: int, width: int, num_scales: int) -> Tensor:
    """(S, H, W): 1 where the pixel of z is factored out at the scale, else 0."""
    levels = latent_levels(height, width, num_scales)
    return torch.stack([levels == scale for scale in range(num_scales)]).float()


def smoothed(maps: Tensor, deviation: float) -> Tensor:
    """(B, K, h, w): each map convolved with a Gaussian; beyond the border lies 0."""
    reach = round(3 * deviation)
    kernel = torch.arange(-reach, reach + 1).to(maps).div(deviation).square().mul(-0.5).exp()
    kernel = (kernel / kernel.sum()).expand(maps.shape[1], 1, -1)
    down = F.conv2d(maps, kernel[..., None], padding=(reach, 0), groups=maps.shape[1])
    return F.conv2d(down, kernel[..., None, :], padding=(0, reach), groups=maps.shape[1])
