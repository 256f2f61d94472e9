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
WIDTH = 3.0
"""Standard deviation, in pixels, of the Gaussian that statistics are averaged by."""
STATISTICS = 3
"""Of each place: K."""
ROWS = 256
"""Of an image, at once: so little memory is needed for large ones. A multiple of `CELL`."""
LEAST = 0.01
"""Added to z^2 before its logarithm, which a single z near 0 would rule."""


def statistics(flow: Flow, x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log p of each image, (B,), in nats, and statistics of its places, (B, K, H / 4, W / 4).

    Means over a neighbourhood of `WIDTH`, from one pass of the flow:
        z^2             1 where an image is like the training's
        log z^2         low where an image is too regular
        log energy      of the mean z^2 of a place; high beside log z^2 where few z are large

    Of a flow given classes, log p is of the mixture, and the pass is given the likeliest class.

    x: images as the flow takes them.
    size: (H, W), of the part that counts: the upper left.
    """
    likeliest, more = _likeliest(flow, x)
    z, log_prob = _passed(flow, x, flow.numbers_of(likeliest, x.shape[0]), size)
    height, width = size
    parts = [_cells(z[:, :, rows, :width].float()) for rows in chunks(height, ROWS)]
    return log_prob + more, smoothed(torch.cat(parts, dim=2), WIDTH)


def _passed(
    flow: Flow, x: Tensor, given: Tensor | None, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """z of all of x, and log p of the part that counts."""
    height, width = size
    if x.shape[2:] == (height, width):
        z, log_det = flow.bijection(x, given)
        return z, flow.prior.log_prob(z) + log_det
    z, terms = flow.bijection.forward_map(x, given)
    nats = prior_map(flow.prior, z) + terms
    return z, nats[:, :, :height, :width].flatten(1).sum(1)


def _likeliest(flow: Flow, x: Tensor) -> tuple[Tensor | None, Tensor | float]:
    """The likeliest class c of each image, (B,), and log p(x) - log p(x | c). None, 0: no class."""
    if not isinstance(flow.condition, Classes):
        return None, 0.0
    log_prob, c = flow.class_log_probs(x).max(dim=1)
    return c, flow.condition.log_priors.to(log_prob)[c] - log_prob


def _cells(z: Tensor) -> Tensor:
    """Means over squares of `CELL` pixels, (B, K, h, w)."""
    squares = z.square().mean(1, keepdim=True)
    maps = torch.cat([squares, (squares + LEAST).log()], dim=1)
    means = F.avg_pool2d(maps, CELL, ceil_mode=True)
    return torch.cat([means, (means[:, :1] + LEAST).log()], dim=1)


def smoothed(maps: Tensor, deviation: float) -> Tensor:
    """(B, K, h, w): the mean around each place, weighted by a Gaussian.

    deviation: of the Gaussian, in pixels.
    """
    cells = deviation / CELL
    reach = round(3 * cells)
    away = torch.arange(-reach, reach + 1, device=maps.device).to(maps)
    weights = away.div(cells).square().mul(-0.5).exp()
    total, inside = (_convolved(part, weights) for part in (maps, torch.ones_like(maps[:1, :1])))
    return total / inside


def _convolved(maps: Tensor, weights: Tensor) -> Tensor:
    """Each map convolved with weights along both sides; beyond the border lies 0."""
    count, reach = maps.shape[1], len(weights) // 2
    kernel = weights.expand(count, 1, -1)
    down = F.conv2d(maps, kernel[..., None], padding=(reach, 0), groups=count)
    return F.conv2d(down, kernel[..., None, :], padding=(0, reach), groups=count)
