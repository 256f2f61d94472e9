"""Large images in bounded memory: layers see strips of the image.

A network sees few pixels far: one for each 3x3 convolution. So a strip that overlaps its neighbours
by so many rows gives what the whole image gives, exactly, whatever a flow's own reach is: between
two layers the image is whole. It takes memory for the image, and for the networks of one strip.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MethodType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from realnvp.bijections import (
    AdditiveCoupling,
    AffineCoupling,
    Dequantisation,
    FactorOut,
    Logit,
    Squeezed,
)
from realnvp.bijections.base import reference_tensor
from realnvp.device import Lock
from realnvp.flows.flow import Flow
from realnvp.progress import chunks

Layer = AffineCoupling | AdditiveCoupling | Dequantisation | Logit
"""The layers that take more memory than their input and what they make of it."""
MEMORY = 2**28  # bytes of the networks of one strip
CACHED = 2**25  # bytes: on a CPU a strip of more is slower, unless much of it would be overlap
PLANES = 6  # that a network holds at once, each of its width


class Strips(NamedTuple):
    """How a layer cuts its input, (B, C, H, W)."""

    rows: int
    """Of a strip."""
    overlap: int
    """Rows that a strip sees of each neighbour."""
    number: int


class _Entrywise(NamedTuple):
    """Of a layer that has no network: it looks at one entry at a time."""

    width: int = 5
    reach: int = 0


ENTRYWISE = _Entrywise()
ONE_AT_A_TIME = Lock()  # since the layers of a flow are changed for a while


@contextmanager
def tiled(
    flow: Flow,
    size: Sequence[int],
    *,
    memory: int = MEMORY,
    report: Callable[[int, int], None] | None = None,
) -> Iterator[None]:
    """Context: the flow maps images of this size, (height, width), from data to noise in strips.

    Of its layers only those whose networks would take more memory for the whole image. Networks
    that have no `reach` see the whole image. Of several threads, one is in this context at a time.

    memory: bytes for the networks of one strip.
    report: told how many strips are done, and of how many.
    """
    plans = {layer: _plan(layer, size, scale, memory) for layer, scale in _layers(flow.bijection)}
    done, total = 0, sum(plan.number for plan in plans.values())

    def count() -> None:
        nonlocal done
        done += 1
        if report:
            report(done, total)

    with ONE_AT_A_TIME, ExitStack() as stack:
        for layer, plan in plans.items():
            layer.pointwise_log_det = partial(_forward_map, layer, plan, count)  # type: ignore[method-assign]
            stack.callback(delattr, layer, "forward_map")
        yield


def _layers(module: nn.Module, scale: int = 1) -> Iterator[tuple[Layer, int]]:
    """The layers that have networks, and by what each sees the image scaled down."""
    if isinstance(module, Layer):
        yield module, scale
    inner = 2 * scale if isinstance(module, Squeezed | FactorOut) else scale
    for child in module.children():
        yield from _layers(child, inner)


def _plan(layer: Layer, size: Sequence[int], scale: int, memory: int) -> Strips:
    height, width = size[0] // scale, size[1] // scale
    net = getattr(layer, "net", ENTRYWISE)
    planes, reach = getattr(net, "width", None), getattr(net, "reach", None)
    if planes is None or reach is None:
        return Strips(height, 0, 1)
    squeezed = isinstance(layer, Dequantisation)  # its network sees 2x2 squares as channels
    overlap = 2 * reach if squeezed else reach + reach % 2
    row = 4 * PLANES * planes * width // (4 if squeezed else 1)
    # Strips begin at even rows, where a checkerboard begins, and 2x2 squares.
    wanted = memory // row
    if reference_tensor(layer).device.type == "cpu":
        wanted = min(wanted, max(CACHED // row, 8 * overlap))
    rows = max(2, wanted // 2 * 2)
    return Strips(rows, overlap, -(-height // rows))


def _forward_map(
    layer: Layer, plan: Strips, count: Callable[[], None], x: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    whole = MethodType(type(layer).pointwise_log_det, layer)
    height = x.shape[2]
    if plan.number == 1:
        found: tuple[Tensor, Tensor] = whole(x, context)
        count()
        return found
    z, terms = torch.empty_like(x), torch.empty_like(x)
    for rows in chunks(height, plan.rows):
        top, bottom = max(0, rows.start - plan.overlap), min(height, rows.stop + plan.overlap)
        mine = slice(rows.start - top, rows.stop - top)
        z_strip, terms_strip = whole(x[:, :, top:bottom], context)
        z[:, :, rows], terms[:, :, rows] = z_strip[:, :, mine], terms_strip[:, :, mine]
        count()
    return z, terms
