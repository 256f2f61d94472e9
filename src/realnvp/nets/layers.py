"""The layers of the networks; in training `kernels` computes the same in fewer passes."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.device import without_autocast
from realnvp.moments import EPS, MovingMoments
from realnvp.nets.kernels import ConvAdd, NormalizeInTraining, has_fused


class WeightNormConv(nn.Module):
    """A zero-padded convolution whose filters have norm g: W = g v / |v|, |v| over (c_in, k, k).

    v ~ U(-d, d), d = sqrt(2 / c_in). gain: g starts at k / sqrt(6) and is trained; False: g is 1.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, *, gain: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        bound = math.sqrt(2 / c_in)
        v = torch.empty(c_out, c_in, kernel, kernel).uniform_(-bound, bound)
        self.v = nn.Parameter(v.contiguous(memory_format=torch.channels_last))
        self.gain = (
            nn.Parameter(torch.full((c_out, 1, 1, 1), kernel / math.sqrt(6))) if gain else None
        )
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None

    def filters(self) -> Tensor:
        """W, (c_out, c_in, k, k), channels last in memory."""
        gain = torch.ones_like(self.v[:, :1, :1, :1]) if self.gain is None else self.gain
        # What torch's own weight_norm calls: one kernel instead of five.
        # It wants v as it lies in memory, (c_out, k, k, c_in).
        return torch._weight_norm(self.v.permute(0, 2, 3, 1), gain, 0).permute(0, 3, 1, 2)

    def forward(self, h: Tensor) -> Tensor:
        return F.conv2d(h, self.filters(), self.bias, padding="same")

    def add_to(self, total: Tensor, h: Tensor, *, in_place: bool = False) -> Tensor:
        """total + conv(h). in_place: overwrite total, which nobody else needs."""
        if self.training and has_fused(h):
            return ConvAdd.apply(h, self.filters(), self.bias, total, in_place)  # type: ignore[no-untyped-call]
        out = self(h)
        return total.add_(out) if in_place else out.add_(total)


class MatrixConv(nn.Module):
    """A zero-padded 3x3 convolution whose weight is a matrix, (c_out, 9 c_in), for Muon.

    In memory the matrix lies as the filters do, channels last. The bias starts at 0.
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


class Embedding(nn.Module):
    """The term of a condition, (B, k), in a hidden plane: c W, (B, width, 1, 1). W starts at 0."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(context, width))

    def forward(self, context: Tensor) -> Tensor:
        with without_autocast(context):
            return context.mm(self.weight).view(context.shape[0], -1, 1, 1)


class Normalize(nn.Module):
    """(h - mean) / sqrt(var + eps) + beta for each channel, then a ReLU: eq 15-16, without gain."""

    def __init__(self, channels: int, *, momentum: float = 0.0, relu: bool = True) -> None:
        super().__init__()
        self.moments = MovingMoments(channels, momentum=momentum)
        self.beta = nn.Parameter(torch.zeros(channels))
        self.relu = relu

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            return NormalizeInTraining.apply(h, self.beta, self.moments, self.relu)  # type: ignore[no-untyped-call]
        out = F.batch_norm(h, self.moments.mean, self.moments.var, bias=self.beta, eps=EPS)
        return out.relu_() if self.relu else out
