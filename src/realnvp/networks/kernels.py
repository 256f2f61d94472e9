"""The layers' numbers in fewer passes over memory: oneDNN's convolutions with a sum or ReLU, batch norm in one function."""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from realnvp.moments import EPS, MovingMoments, count, over_processes, own_moments, pooled, several_processes


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


class AddedConvolution(torch.autograd.Function):
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


class Normalised(torch.autograd.Function):
    """Normalise in training: torch's kernels for batch norm's passes over h; eq 15-16, and several processes, between them.

    With s = 1 / sqrt(var' + eps), y = (h - mu') s, and N numbers in a channel of the global batch, whose own mean and variance
    have the share 1 - rho in mu' and var', the gradient is
      dh = s g - (1 - rho) s / N (sum g + s (h - mu) sum g y).
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, beta: Tensor, moments: MovingMoments, relu: bool) -> Tensor:
        batch_mean, batch_var, ctx.numbers = pooled(*_fused_moments(h), count(h))
        mean, var, share = moments.mixed(batch_mean, batch_var)
        out: Tensor = torch.native_batch_norm(h, None, beta, mean, var, False, 0.0, EPS)[0]
        if relu:
            _relu_in_place(out)
        ctx.save_for_backward(h, out if relu else None, batch_mean, mean, var)
        ctx.share = share
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        h, out, batch_mean, mean, var = ctx.saved_tensors
        if out is not None:
            g = torch.ops.aten.threshold_backward(g, out, 0)
        scale, share = torch.rsqrt(var + EPS), ctx.share
        backward, along = torch.ops.aten.native_batch_norm_backward, (-1, *[1] * (h.ndim - 2))
        if not several_processes():
            # The kernel's own formula is the one above for rho = 0 and mu = mu'. With s sqrt(1 - rho) for its s and the gain
            # 1 / sqrt(1 - rho), the slope in h is right for any rho; what is left is a constant for each channel.
            root = math.sqrt(share)
            gain = torch.full_like(mean, 1 / root)
            dh, sum_gy, sum_g = backward(g, h, gain, mean, var, mean, scale * root, True, EPS, [True, True, True])
            if share < 1:
                drift = share * scale * (sum_gy / root) * (batch_mean - mean)
                dh = dh + (scale * ((1 - share) * sum_g + drift) / count(h)).to(h.dtype).view(along)
            return dh, sum_g, None, None
        # The CPU's kernel takes the moments from mean and var here, CUDA's insists on the two that follow them.
        _, sum_gy, sum_g = backward(g, h, None, mean, var, mean, scale, False, EPS, [False, True, True])
        total_g, total_gy = over_processes(torch.cat([sum_g, sum_gy])).chunk(2)
        share = share / ctx.numbers
        slope = -share * scale.square() * total_gy
        constant = -share * scale * total_g - slope * batch_mean
        slope, constant, scale = (v.to(h.dtype).view(along) for v in (slope, constant, scale))
        return torch.addcmul(constant, h, slope).addcmul_(g, scale), sum_g, None, None


def _fused_moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """`own_moments` without a gradient, in one call where torch has a kernel for it."""
    if h.device.type not in ("cpu", "cuda"):
        return own_moments(h)
    result = torch.promote_types(h.dtype, torch.float32)
    # A running mean would be moved by 0 here: of a type that is not h's, it decides that of the result.
    unused = None if h.dtype == result else h.new_zeros(h.shape[1], dtype=result)
    mean, var = torch.batch_norm_update_stats(h, unused, unused, 0.0)
    return mean, var


def _relu_in_place(h: Tensor) -> None:
    # The bits of bfloat16, read as int16, are negative where h is: the same result in a quarter of the time. A NaN may become 0
    # here; the NaN in its channel's mean makes the step's gradient NaN all the same.
    if h.dtype == torch.bfloat16:
        h.view(torch.int16).clamp_min_(0)
    else:
        h.relu_()
