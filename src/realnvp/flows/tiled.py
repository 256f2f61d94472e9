"""Large images in bounded memory: the networks see strips of the image.

A network sees few pixels far: one for each 3x3 convolution. So a strip that overlaps its neighbors
by so many rows gives what the whole image gives, exactly, however far the whole flow sees: between
two layers the image is whole. It takes memory for the image, and for the networks of one strip.
"""

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from realnvp.bijections import Coupling, Logit, VariationalDequantization
from realnvp.bijections.base import PointwiseBijection
from realnvp.flows.flow import Flow
from realnvp.progress import track_slices

MEMORY = 2**28  # bytes of the networks of one strip
CACHED = 2**25  # bytes: on a CPU a strip of more is slower, unless much of it would be overlap
PLANES = 6  # that a network holds at once, each of its width
LOGIT_PLANES = 5


def tiled(flow: Flow, *, memory: int = MEMORY) -> Flow:
    """The same flow, with the same weights, whose densities of large images take bounded memory.

    memory: bytes for the networks of one strip. Networks that have no `reach` see the whole image.
    """
    kinds = Coupling | VariationalDequantization | Logit
    # deepcopy takes these for copies that it made.
    copies: dict[int, Any] = {id(each): each for each in chain(flow.parameters(), flow.buffers())}
    copies |= {id(f): InStrips(f, memory) for f in flow.modules() if isinstance(f, kinds)}
    return copy.deepcopy(flow, copies)


class InStrips(PointwiseBijection):
    """f itself, whose network sees strips on the way from data to noise."""

    def __init__(self, f: Coupling | VariationalDequantization | Logit, memory: int) -> None:
        super().__init__()
        self.f, self.memory, self.training = f, memory, f.training

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        height = x.shape[2]
        rows, overlap = self._strips(x)
        if rows >= height:
            return self.f.pointwise_log_det(x, context)
        z, log_det = torch.empty_like(x), torch.empty_like(x)
        for strip in track_slices(height, rows, "rows"):
            top, bottom = max(0, strip.start - overlap), min(height, strip.stop + overlap)
            inner = slice(strip.start - top, strip.stop - top)
            z_strip, terms = self.f.pointwise_log_det(x[:, :, top:bottom], context)
            z[:, :, strip], log_det[:, :, strip] = z_strip[:, :, inner], terms[:, :, inner]
        return z, log_det

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.f.inverse(z, context)

    def _strips(self, x: Tensor) -> tuple[int, int]:
        """The rows of a strip, and the rows that it sees of each neighbor."""
        net = getattr(self.f, "net", None)
        planes, reach = getattr(net, "width", 0), getattr(net, "reach", 0)
        if net is None:
            planes = LOGIT_PLANES
        if not planes:
            return x.shape[2], 0
        # The network of the noise sees 2x2 squares as channels.
        squeezed = isinstance(self.f, VariationalDequantization)
        overlap = 2 * reach if squeezed else reach + reach % 2
        bytes_of_row = 4 * PLANES * planes * x.shape[3] // (4 if squeezed else 1)
        # Strips begin at even rows, where a checkerboard begins, and 2x2 squares.
        rows = self.memory // bytes_of_row
        if x.device.type == "cpu":
            rows = min(rows, max(CACHED // bytes_of_row, 8 * overlap))
        return max(2, rows // 2 * 2), overlap
