"""Pictures of any size, scored whole: nats a pixel."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections.precision import float64_like
from realnvp.config.bounds import AT_LEAST_ONE, check_number
from realnvp.config.errors import ParameterError
from realnvp.data import channels_first, dequantise
from realnvp.data.dataset import Pixels
from realnvp.data.images import check_fit
from realnvp.flows.flow import Flow, config_of, evaluating, prior_map
from realnvp.flows.strips import MEMORY, in_strips
from realnvp.tools.noise import Purpose, uniform
from realnvp.tools.progress import chunks

ROWS = 256  # of a picture, summed at once
MOST_IN_FLOAT64 = 2**23  # entries of x; z and log-det of larger pictures are float32


def picture_map(
    flow: Flow,
    picture: Pixels,
    *,
    given: Any = None,
    noise_draws: int = 1,
    seed: int = 0,
    memory: int = MEMORY,
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """(H, W), float64: what each pixel contributes to log p of a picture, in nats.

    The sum is log p where the flow's scales divide both sides. Other pictures are continued, at
    their right and lower edges, by their own mirror image, whose nats are left out: so each pixel
    has its nats, and none of the picture is cut off.

    picture: (H, W, C), as `read_image` gives it.
    given: the condition of a conditional flow.
    noise_draws: log p is averaged over them.
    seed: of the noise, a function of the seed and the picture's pixels.
    memory: bytes for the networks; where it is not enough they see overlapping strips, to the same
        result.
    report: told how many strips are done, and of how many.

    ParameterError: it is no such array. RefusedImage: it has other channels or grey levels than the
    flow.
    """
    config = config_of(flow)
    noise_draws = check_number("noise_draws", noise_draws, int, AT_LEAST_ONE)
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        found = getattr(picture, "shape", type(picture).__name__)
        raise ParameterError("picture", f"expected an array (H, W, C), got {found}")
    check_fit(picture, channels=config.shape[0], levels=config.levels, name="picture")
    height, width, _ = picture.shape
    total = torch.zeros(height, width, dtype=torch.float64, device="cpu")
    with evaluating(flow):
        for draw in range(noise_draws):
            x = continued(noisy(flow, picture, seed, draw), flow.divisor)
            with in_strips(flow, x.shape[2:], memory=memory, report=report):
                z, terms = flow.bijection.forward_map(x, flow.numbers_of(given, 1))
            del x
            for rows in chunks(height, ROWS):
                nats = terms[:, :, rows] + prior_map(flow.prior, z[:, :, rows])
                total[rows] += nats.double().sum(1)[0, :, :width].cpu()
    return total / noise_draws


def noisy(flow: Flow, picture: Pixels, seed: int, draw: int) -> Tensor:
    """x = v + u, (1, C, H, W), of a picture (H, W, C), on the flow's device."""
    pixels = np.array(channels_first(picture[None]))
    indices = [zlib.crc32(pixels.tobytes())]
    noise = uniform(pixels.shape[1:], seed, Purpose.EVALUATE, indices=indices, round=draw)
    state = float64_like(flow)
    if pixels.size > MOST_IN_FLOAT64:
        state = state.float()
    return dequantise(torch.from_numpy(pixels), noise.to(state.dtype)).to(state.device)


def continued(x: Tensor, divisor: int) -> Tensor:
    """x, (B, C, H, W), continued by its mirror image until the divisor divides both sides."""
    for axis in (2, 3):
        side = x.shape[axis]
        if missing := -side % divisor:
            # 0 1 2 ... n-1 n-1 ... 1 0 0 1 2 ...
            there_and_back = torch.arange(side + missing, device=x.device) % (2 * side)
            x = x.index_select(axis, torch.minimum(there_and_back, 2 * side - 1 - there_and_back))
    return x
