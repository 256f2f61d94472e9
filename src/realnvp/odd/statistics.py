"""What one pass of a flow tells about each place of an image."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from realnvp.flows.flow import Flow, prior_map
from realnvp.flows.given import Classes
from realnvp.tools.progress import chunks

CELL = 4
"""Side of a place, in pixels."""
WIDTHS = (4.0, 8.0)
"""Standard deviations, in pixels, of the Gaussians that statistics are smoothed by."""
STATISTICS = 4 * len(WIDTHS)
"""Of each place: K."""
ROWS = 256
"""Of an image, at once: so little memory is needed for large ones. A multiple of `CELL`."""
LEAST = 0.01
"""Added to z^2 before its logarithm, which a single z near 0 would rule."""


def statistics(flow: Flow, x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log p of each image, (B,), in nats, and statistics of its places, (B, K, H / 4, W / 4).

    Means over a neighbourhood, in each of `WIDTHS`, from one pass of the flow:
        z^2             1 where an image is like the training's
        log z^2         low where an image is too regular
        log energy      of the mean z^2 of a place; high beside log z^2 where few z are large
        log-scales      high where the flow finds an image smooth

    Of a flow given classes, log p is of the mixture, and the pass is given the likeliest class.

    x: images as the flow takes them.
    size: (H, W), of the part that counts: the upper left.
    """
    likeliest, more = _likeliest(flow, x)
    z, terms = flow.bijection.forward_map(x, flow.numbers_of(likeliest, x.shape[0]))
    height, width = size
    log_prob, parts = z.new_zeros(z.shape[0]), []
    for rows in chunks(height, ROWS):
        part, part_terms = z[:, :, rows, :width], terms[:, :, rows, :width]
        log_prob += (prior_map(flow.prior, part) + part_terms).flatten(1).sum(1)
        parts.append(_cells(part.float(), part_terms.float()))
    cells = torch.cat(parts, dim=2)
    inside = torch.ones_like(cells[:1, :1])
    smooth = [
        smoothed(cells, deviation / CELL) / smoothed(inside, deviation / CELL)
        for deviation in WIDTHS
    ]
    return log_prob + more, torch.cat(smooth, dim=1)


def _likeliest(flow: Flow, x: Tensor) -> tuple[Tensor | None, Tensor | float]:
    """The likeliest class c of each image, (B,), and log p(x) - log p(x | c). None, 0: no class."""
    if not isinstance(flow.condition, Classes):
        return None, 0.0
    log_prob, c = flow.class_log_probs(x).max(dim=1)
    return c, flow.condition.log_priors.to(log_prob)[c] - log_prob


def _cells(z: Tensor, terms: Tensor) -> Tensor:
    """Means over squares of `CELL` pixels, (B, K, h, w)."""
    squares = z.square().mean(1, keepdim=True)
    log_squares, log_scales = (squares + LEAST).log(), terms.mean(1, keepdim=True)
    maps = torch.cat([squares, log_squares, log_scales], dim=1)
    means = F.avg_pool2d(maps, CELL, ceil_mode=True)
    return torch.cat([means, (means[:, :1] + LEAST).log()], dim=1)


def smoothed(maps: Tensor, deviation: float) -> Tensor:
    """(B, K, h, w): each map convolved with a Gaussian; beyond the border lies 0."""
    reach = round(3 * deviation)
    place = torch.arange(-reach, reach + 1, device=maps.device).to(maps)
    kernel = place.div(deviation).square().mul(-0.5).exp()
    kernel = (kernel / kernel.sum()).expand(maps.shape[1], 1, -1)
    down = F.conv2d(maps, kernel[..., None], padding=(reach, 0), groups=maps.shape[1])
    return F.conv2d(down, kernel[..., None, :], padding=(0, reach), groups=maps.shape[1])
