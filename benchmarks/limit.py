"""What the machine allows: a network's convolutions alone, same shapes, nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from realnvp.config import Config
from realnvp.flows.build import build
from realnvp.nets.kernels import convolve, packed

FORMATS = {"channels last": torch.channels_last, "NCHW": torch.contiguous_format}


@dataclass
class Convolution:
    """One convolution's operands."""

    h: Tensor
    weight: Tensor
    bias: Tensor | None

    def out(self) -> Tensor:
        """What it gives."""
        return F.conv2d(self.h, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class _Recorded(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[torch.Size, torch.Size, bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten.convolution.default:
            self.shapes.append((args[0].shape, args[1].shape, args[2] is not None))
        return func(*args, **(kwargs or {}))


def convolutions(
    config: Config, batch: int, *, dtype: torch.dtype, layout: str
) -> list[Convolution]:
    """All convolutions of one log_prob, in order, with random operands in this layout."""
    with torch.device("meta"), _Recorded() as recorded, torch.no_grad():
        build(config).eval().log_prob(torch.empty(batch, *config.data.shape or ()))

    def random(shape: torch.Size) -> Tensor:
        return torch.randn(shape).to(dtype, memory_format=FORMATS[layout]).requires_grad_()

    def zeros(count: int) -> Tensor:
        return torch.zeros(count, dtype=dtype, requires_grad=True)

    shapes = recorded.shapes
    return [
        Convolution(random(h), random(w), zeros(w[0]) if bias else None) for h, w, bias in shapes
    ]


def forward(convs: list[Convolution]) -> Callable[[], None]:
    """What log_prob and sample cannot do without."""

    @torch.no_grad()
    def run() -> None:
        for conv in convs:
            conv.out()

    return run


def packed_forward(convs: list[Convolution]) -> Callable[[], None]:
    """As `forward`, with weights laid out beforehand, as `realnvp.fast` has them."""
    with torch.no_grad():
        weights = [packed(conv.weight.detach()) for conv in convs]
        none = [conv.weight.new_zeros(len(conv.weight)) for conv in convs]

    @torch.no_grad()
    def run() -> None:
        for conv, weight, zeros in zip(convs, weights, none, strict=True):
            convolve(conv.h, weight, zeros if conv.bias is None else conv.bias)

    return run


def training(convs: list[Convolution]) -> Callable[[], None]:
    """What a training step cannot do without: each convolution and its gradients."""
    gradients = [torch.randn_like(conv.out()) for conv in convs]

    def run() -> None:
        for conv, gradient in zip(convs, gradients, strict=True):
            operands = [t for t in (conv.h, conv.weight, conv.bias) if t is not None]
            torch.autograd.grad(conv.out(), operands, gradient)

    return run
