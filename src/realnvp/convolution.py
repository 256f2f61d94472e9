"""The networks' convolutions, with weight norm, and with the sum or ReLU after them in the same pass over memory."""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WeightNormConv(nn.Module):
    """A zero-padded convolution whose filters have norm g: W = g v / |v|, |v| over (c_in, k, k).

    v ~ U(-d, d), d = sqrt(2 / c_in). The gain g starts at k / sqrt(6) and is trained if gain is True; else it is 1.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, *, gain: bool = False, bias: bool = True) -> None:
        super().__init__()
        bound = math.sqrt(2 / c_in)
        v = torch.empty(c_out, c_in, kernel, kernel).uniform_(-bound, bound)
        self.v = nn.Parameter(v.contiguous(memory_format=torch.channels_last))
        self.gain = nn.Parameter(torch.full((c_out, 1, 1, 1), kernel / math.sqrt(6))) if gain else None
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None

    def filters(self) -> Tensor:
        """W, (c_out, c_in, k, k), channels last in memory."""
        gain = torch.ones_like(self.v[:, :1, :1, :1]) if self.gain is None else self.gain
        # What torch's own weight_norm calls: one kernel instead of five. It wants v as it lies in memory, (c_out, k, k, c_in).
        return torch._weight_norm(self.v.permute(0, 2, 3, 1), gain, 0).permute(0, 3, 1, 2)

    def forward(self, h: Tensor) -> Tensor:
        return F.conv2d(h, self.filters(), self.bias, padding="same")

    def add_to(self, total: Tensor, h: Tensor, *, in_place: bool = False) -> Tensor:
        """total + conv(h); in_place where nobody else needs total."""
        if self.training and has_fused(h):
            out: Tensor = _AddedConvolution.apply(h, self.filters(), self.bias, total, in_place)  # type: ignore[no-untyped-call]  # see moments
            return out
        out = self(h)
        return total.add_(out) if in_place else out.add_(total)


class MatrixConv(nn.Module):
    """A zero-padded 3x3 convolution whose weight is a matrix, (c_out, 9 c_in): what Muon orthogonalises. A bias that starts at 0.

    Its memory is that of a filter with channels last.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(9 * c_in)
        self.weight = nn.Parameter(torch.empty(c_out, 9 * c_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(c_out))

    def filters(self) -> Tensor:
        """The weight, (c_out, c_in, 3, 3), channels last in memory."""
        return self.weight.view(len(self.weight), 3, 3, -1).permute(0, 3, 1, 2)

    def forward(self, h: Tensor) -> Tensor:
        return F.conv2d(h, self.filters(), self.bias, padding=1)


@cache
def _fused(dtype: torch.dtype) -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # see moments
    if dtype == torch.bfloat16:  # older CPUs lack the instructions; torch's plain convolution does without
        return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return available and dtype == torch.float32


def has_fused(h: Tensor) -> bool:
    """Whether oneDNN convolves h: only its kernels add, or apply ReLU, to a convolution while they write it."""
    return h.device.type == "cpu" and _fused(h.dtype)


def packed(weight: Tensor) -> Tensor:
    """The weight laid out once for `convolve` and `conv_add`, where oneDNN would do it in each call."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *_geometry(weight)) if has_fused(weight) else weight


def convolve(h: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """conv(h), or relu(conv(h)), for odd kernels; without a gradient."""
    out: Tensor
    if has_fused(h):
        out = torch.ops.mkldnn._convolution_pointwise(h, weight, bias, *_geometry(weight), "relu" if relu else "none", [], "")
        return out
    out = F.conv2d(h, weight, bias, padding="same")
    return out.relu_() if relu else out


def conv_add(h: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor, *, in_place: bool) -> Tensor:
    """total + conv(h); without a gradient."""
    out: Tensor
    if not has_fused(h):
        out = F.conv2d(h, weight, bias, padding="same")
        return total.add_(out) if in_place else out.add_(total)
    order = (total, h) if in_place else (h, total)
    kernel = torch.ops.mkldnn._convolution_pointwise_ if in_place else torch.ops.mkldnn._convolution_pointwise
    out = kernel.binary(*order, weight, bias, *_geometry(weight), "add", 1.0, None, [], None)
    return out


def _geometry(weight: Tensor) -> tuple[list[int], list[int], list[int], int]:
    """Padding, stride, dilation, groups."""
    return [weight.shape[2] // 2, weight.shape[3] // 2], [1, 1], [1, 1], 1


class _AddedConvolution(torch.autograd.Function):
    """conv_add with its gradient."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor, in_place: bool) -> Tensor:
        low = weight.to(h.dtype)
        ctx.save_for_backward(h, low)
        ctx.with_bias = bias is not None
        if in_place:
            ctx.mark_dirty(total)
        return conv_add(h, low, None if bias is None else bias.to(h.dtype), total, in_place=in_place)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor, None]:
        h, weight = ctx.saved_tensors
        padding, stride, dilation, groups = _geometry(weight)
        needed = [True, True, ctx.with_bias]
        grads = torch.ops.aten.convolution_backward(
            g, h, weight, [len(weight)], stride, padding, dilation, False, [0, 0], groups, needed
        )
        return *grads, g, None
