"""The layers' numbers in fewer passes over memory: oneDNN's convolutions, torch's batch norm."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from realnvp.moments import EPS, MovingMoments, count, over_processes, pooled, several_processes


def has_fused(h: Tensor) -> bool:
    """Whether oneDNN convolves h: its kernels add or apply ReLU while they write a convolution."""
    if h.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if (
        h.dtype == torch.bfloat16
    ):  # older CPUs lack the instructions, which plain torch does without
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return h.dtype == torch.float32


def packed(weight: Tensor) -> Tensor:
    """The weight laid out once for `convolve` and `conv_add`; oneDNN would do it in each call."""
    if not has_fused(weight):
        return weight
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *_geometry(weight))


def convolve(h: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """conv(h), or relu(conv(h)), for odd kernels; without a gradient."""
    if not has_fused(h):
        out = F.conv2d(h, weight, bias, padding="same")
        return out.relu_() if relu else out
    return torch.ops.mkldnn._convolution_pointwise(
        h, weight, bias, *_geometry(weight), "relu" if relu else "none", [], ""
    )


def conv_add(
    h: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor, *, in_place: bool
) -> Tensor:
    """total + conv(h); without a gradient."""
    if not has_fused(h):
        out = F.conv2d(h, weight, bias, padding="same")
        return total.add_(out) if in_place else out.add_(total)
    if h.shape[-2:] == (1, 1) and not in_place:  # torch 2.9 adds to one pixel in place alone
        total, in_place = total.clone(), True
    options: tuple[Any, ...] = (weight, bias, *_geometry(weight), "add", 1.0, None, [], None)
    if in_place:
        return torch.ops.mkldnn._convolution_pointwise_.binary(total, h, *options)
    return torch.ops.mkldnn._convolution_pointwise.binary(h, total, *options)


def _geometry(weight: Tensor) -> tuple[list[int], list[int], list[int], int]:
    """Padding, stride, dilation, groups."""
    return [weight.shape[2] // 2, weight.shape[3] // 2], [1, 1], [1, 1], 1


class ConvAdd(torch.autograd.Function):
    """`conv_add` with gradients."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor, in_place: bool
    ) -> Tensor:
        weight, bias = weight.to(h.dtype), None if bias is None else bias.to(h.dtype)
        ctx.save_for_backward(h, weight)
        ctx.with_bias = bias is not None
        if in_place:
            ctx.mark_dirty(total)
        return conv_add(h, weight, bias, total, in_place=in_place)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor, None]:
        h, weight = ctx.saved_tensors
        padding, stride, dilation, groups = _geometry(weight)
        needed = [True, True, ctx.with_bias]
        grads = torch.ops.aten.convolution_backward(
            g, h, weight, [len(weight)], stride, padding, dilation, False, [0, 0], groups, needed
        )
        return *grads, g, None


class NormalizeInTraining(torch.autograd.Function):
    """Batch norm, (h - mu') s + beta, then with relu a ReLU, by torch's kernels.

    Between them are eq 15-16 and the sum over processes.

    s = 1 / sqrt(var' + eps) and y = (h - mu') s. A channel of the global batch has N numbers with
    mean mu. This mean and the variance have the share 1 - rho in mu' and var'. The gradient is

        dh = s g - (1 - rho) s / N (sum g + s (h - mu) sum g y).
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, beta: Tensor, moments: MovingMoments, relu: bool) -> Tensor:
        batch_mean, batch_var, ctx.numbers = pooled(*_fused_moments(h), count(h))
        mean, var, ctx.share = moments.moving(batch_mean, batch_var)
        out: Tensor = torch.native_batch_norm(h, None, beta, mean, var, False, 0.0, EPS)[0]
        if relu and h.dtype == torch.bfloat16:
            # As int16, bfloat16 is negative where h is: a quarter of relu_'s time. A NaN
            # may become 0; that in its channel's mean still makes the step's gradient NaN.
            out.view(torch.int16).clamp_min_(0)
        elif relu:
            out.relu_()
        ctx.save_for_backward(h, out if relu else None, batch_mean, mean, var)
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
            # The kernel computes dh for rho = 0 and mu = mu'. For any rho its slope in h is right,
            # given s sqrt(1 - rho) as s, and the gain 1 / sqrt(1 - rho). Then a constant for each
            # channel is missing, which is added below.
            root = math.sqrt(share)
            gain, all_three = torch.full_like(mean, 1 / root), [True, True, True]
            moments = (mean, var, mean, scale * root)
            dh, sum_gy, sum_g = backward(g, h, gain, *moments, True, EPS, all_three)
            if share < 1:
                drift = share * scale * (sum_gy / root) * (batch_mean - mean)
                constant = scale * ((1 - share) * sum_g + drift) / count(h)
                dh = dh + constant.to(h.dtype).view(along)
            return dh, sum_g, None, None
        # The CPU's kernel reads the first two moments, CUDA's the last two.
        moments = (mean, var, mean, scale)
        _, sum_gy, sum_g = backward(g, h, None, *moments, False, EPS, [False, True, True])
        total_g, total_gy = over_processes(torch.cat([sum_g, sum_gy])).chunk(2)
        share = share / ctx.numbers
        slope = -share * scale.square() * total_gy
        constant = -share * scale * total_g - slope * batch_mean
        slope, constant, scale = (v.to(h.dtype).view(along) for v in (slope, constant, scale))
        return torch.addcmul(constant, h, slope).addcmul_(g, scale), sum_g, None, None


def _fused_moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (C,), float32 or better, without a gradient."""
    result = torch.promote_types(h.dtype, torch.float32)
    # The type of a running mean decides the type of the result; momentum 0 leaves it unchanged.
    unused = None if h.dtype == result else h.new_zeros(h.shape[1], dtype=result)
    return torch.batch_norm_update_stats(h, unused, unused, 0.0)
