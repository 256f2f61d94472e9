"""Batch norm inside the networks, with the ReLU that follows it, in few passes over memory: beside it, convolutions are cheap."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from realnvp.moments import EPS, MovingMoments, count, over_processes, own_moments, pooled, several_processes


class Normalise(nn.Module):
    """(h - mean) / sqrt(var + eps) + beta for each channel, then a ReLU: batch norm with a shift and no gain."""

    def __init__(self, channels: int, *, momentum: float = 0.0, relu: bool = True) -> None:
        super().__init__()
        self.moments = MovingMoments(channels, momentum=momentum)
        self.beta = nn.Parameter(torch.zeros(channels))
        self.relu = relu

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            training: Tensor = _Normalised.apply(h, self.beta, self.moments, self.relu)  # type: ignore[no-untyped-call]  # see moments
            return training
        out = F.batch_norm(h, self.moments.mean, self.moments.var, bias=self.beta, eps=EPS)
        return out.relu_() if self.relu else out


class _Normalised(torch.autograd.Function):
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
