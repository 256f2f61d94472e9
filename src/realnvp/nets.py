"""The networks l and m of the couplings: residual, with batch norm, weight norm and skip connections (section 3.7, 4.1)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.moments import EPS, MovingMoments


class WeightNormConv(nn.Module):
    """A zero-padded convolution whose filters have norm g: W = g v / |v|, |v| over (c_in, k, k).

    v ~ U(-d, d), d = sqrt(2 / c_in). The gain g starts at k / sqrt(6) and is trained if gain is True; else it is 1.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, *, gain: bool = False, bias: bool = True) -> None:
        super().__init__()
        bound = math.sqrt(2 / c_in)
        self.v = nn.Parameter(torch.empty(c_out, c_in, kernel, kernel).uniform_(-bound, bound))
        self.gain = nn.Parameter(torch.full((c_out, 1, 1, 1), kernel / math.sqrt(6))) if gain else None
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None

    def forward(self, h: Tensor) -> Tensor:
        gain = torch.ones_like(self.v[:, :1, :1, :1]) if self.gain is None else self.gain
        weight = torch._weight_norm(self.v, gain, 0)  # what torch's own weight_norm calls: one kernel instead of five
        return F.conv2d(h, weight, self.bias, padding="same")


class Normalise(nn.Module):
    """(h - mean) / sqrt(var + eps) + beta for each channel: batch norm with a shift and no gain."""

    def __init__(self, channels: int, *, momentum: float = 0.0) -> None:
        super().__init__()
        self.moments = MovingMoments(channels, momentum=momentum)
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor) -> Tensor:
        mean, var = self.moments(h)
        scale = torch.rsqrt(var + EPS)
        shift = self.beta - mean * scale
        return torch.addcmul(shift[:, None, None], h, scale[:, None, None]).to(h.dtype)


class ResidualBlock(nn.Module):
    """h + conv(relu(norm(conv(relu(norm(h))))))  [20]."""

    def __init__(self, width: int, *, momentum: float) -> None:
        super().__init__()
        self.norm1 = Normalise(width, momentum=momentum)
        self.conv1 = WeightNormConv(width, width, 3, bias=False)  # the next norm's shift stands for a bias
        self.norm2 = Normalise(width, momentum=momentum)
        self.conv2 = WeightNormConv(width, width, 3, gain=True)

    def forward(self, h: Tensor) -> Tensor:
        residual = self.conv1(self.norm1(h).relu())
        out: Tensor = h + self.conv2(self.norm2(residual).relu())
        return out


class ResNet(nn.Module):
    """(B, c_out, H, W) from the kept part of x, (B, c_in, H, W), and its mask.

    Every block's output, and the first convolution's, reaches the end over a skip connection of its own.
    With see_mask the mask is one more input plane, and the input is doubled since half of it is masked to zero.
    """

    def __init__(
        self, c_in: int, width: int, c_out: int, *, num_blocks: int, momentum: float = 0.0, see_mask: bool = False
    ) -> None:
        super().__init__()
        self.see_mask = see_mask
        self.norm_in = Normalise(c_in, momentum=momentum)
        self.conv_in = WeightNormConv(2 * c_in + see_mask, width, 3)
        self.skip_in = WeightNormConv(width, width, 1, gain=True)
        self.blocks = nn.ModuleList(ResidualBlock(width, momentum=momentum) for _ in range(num_blocks))
        self.skips = nn.ModuleList(WeightNormConv(width, width, 1, gain=True) for _ in range(num_blocks))
        self.norm_out = Normalise(width, momentum=momentum)
        self.conv_out = WeightNormConv(width, c_out, 1, gain=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        r = self.norm_in(x)
        if self.see_mask:
            plane = mask.to(x.dtype).expand(x.shape[0], 1, *x.shape[2:])
            h = torch.cat([2 * r, -2 * r, plane], dim=1).relu()
        else:
            h = torch.cat([r, -r], dim=1).relu()
        h = self.conv_in(h)
        accumulated = self.skip_in(h)
        for block, skip in zip(self.blocks, self.skips, strict=True):
            h = block(h)
            accumulated = accumulated + skip(h)
        out: Tensor = self.conv_out(self.norm_out(accumulated).relu())
        return out


class KeptHalf(nn.Module):
    """A network for channel-wise couplings that is given the kept half of the channels alone.

    net maps (B, C/2, H, W) to (B, k C/2, H, W), for the changed half; the result, (B, k C, H, W), is zero in the kept half.
    """

    def __init__(self, net: nn.Module, *, flip: bool) -> None:
        super().__init__()
        self.net = net
        self.flip = flip

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        half = x.shape[1] // 2
        kept = x[:, half:] if self.flip else x[:, :half]
        changed = self.net(kept, mask).unflatten(1, (-1, half))  # (B, k, C/2, H, W)
        before, after = (0, half) if self.flip else (half, 0)
        return F.pad(changed, (0, 0, 0, 0, before, after)).flatten(1, 2)
