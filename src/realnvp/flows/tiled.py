"""Large images in bounded memory: the networks see strips of the image.

A network sees few pixels far: one for each 3x3 convolution. So a strip that overlaps its neighbors
by so many rows gives what the whole image gives, exactly, however far the whole flow sees: between
two layers the image is whole. It takes memory for the image, and for the networks of one strip.
"""

import torch
from torch import Tensor

from realnvp.bijections import (
    Bijection,
    Chain,
    Conditioned,
    Coupling,
    FactorOut,
    Logit,
    Squeezed,
    VariationalDequantization,
)
from realnvp.bijections.base import PointwiseBijection
from realnvp.bijections.multiscale import even_squares, from_squares, odd_squares
from realnvp.flows.flow import Flow
from realnvp.progress import track_slices

MEMORY = 2**28  # bytes of the networks of one strip
CACHED = 2**25  # bytes: on a CPU a strip of more is slower, unless much of it would be overlap
PLANES = 6  # that a network holds at once, each of its width
ENTRYWISE_PLANES = 5  # that a layer without a network holds


def tiled(flow: Flow, *, memory: int = MEMORY) -> Flow:
    """The same flow, with the same weights, whose densities of large images take bounded memory.

    memory: bytes for the networks of one strip. Networks that have no `reach` see the whole image.
    """
    bijection = Tiled(flow.bijection, memory=memory)
    made = Flow(bijection, flow.prior, flow.config, shape=flow.shape, condition=flow.condition)
    made.exact = flow.exact
    return made.train(flow.training)


class Tiled(PointwiseBijection):
    """f itself, from data to noise in strips."""

    def __init__(self, bijection: Bijection, *, memory: int = MEMORY) -> None:
        super().__init__()
        self.bijection, self.memory = bijection, memory

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._apply_layer(self.bijection, x, context)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.bijection.inverse(z, context)

    def _apply_layer(
        self, f: Bijection, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`f.pointwise_log_det(x, context)`, whose networks see strips."""
        match f:
            case Chain():
                log_det = torch.zeros_like(x)
                for layer in f.bijections:
                    assert isinstance(layer, Bijection)
                    x, terms = self._apply_layer(layer, x, context)
                    log_det += terms
                    del terms  # of a large image they take as much memory as the image
                return x, log_det
            case Conditioned():
                return self._apply_layer(f.bijection, x, f.context.expand(len(x), -1))
            case Squeezed():
                z, terms = self._apply_layer(f.bijection, f.squeeze(x), context)
                return f.unsqueeze(z), f.unsqueeze(terms)
            case FactorOut():
                h, terms = self._apply_layer(f.bijection, odd_squares(x), context)
                even = even_squares(x)
                return from_squares(even, h), from_squares(torch.zeros_like(even), terms)
            case Coupling() | VariationalDequantization() | Logit():
                return self._in_strips(f, x, context)
        return f.pointwise_log_det(x, context)

    def _in_strips(
        self, f: Coupling | VariationalDequantization | Logit, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        height = x.shape[2]
        rows, overlap = self._strips(f, x)
        if rows >= height:
            return f.pointwise_log_det(x, context)
        z, log_det = torch.empty_like(x), torch.empty_like(x)
        for strip in track_slices(height, rows, "rows"):
            top, bottom = max(0, strip.start - overlap), min(height, strip.stop + overlap)
            inner = slice(strip.start - top, strip.stop - top)
            z_strip, terms = f.pointwise_log_det(x[:, :, top:bottom], context)
            z[:, :, strip], log_det[:, :, strip] = z_strip[:, :, inner], terms[:, :, inner]
        return z, log_det

    def _strips(
        self, f: Coupling | VariationalDequantization | Logit, x: Tensor
    ) -> tuple[int, int]:
        """The rows of a strip, and the rows that it sees of each neighbor."""
        if isinstance(f, Logit):
            planes, reach = ENTRYWISE_PLANES, 0
        else:
            planes, reach = getattr(f.net, "width", 0), getattr(f.net, "reach", 0)
        if not planes:
            return x.shape[2], 0
        squeezed = isinstance(
            f, VariationalDequantization
        )  # its network sees 2x2 squares as channels
        overlap = 2 * reach if squeezed else reach + reach % 2
        bytes_of_row = 4 * PLANES * planes * x.shape[3] // (4 if squeezed else 1)
        # Strips begin at even rows, where a checkerboard begins, and 2x2 squares.
        rows = self.memory // bytes_of_row
        if x.device.type == "cpu":
            rows = min(rows, max(CACHED // bytes_of_row, 8 * overlap))
        return max(2, rows // 2 * 2), overlap
