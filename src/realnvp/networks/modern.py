"""The networks of the modern flows and of vectors: without batch norm, the last layer starts at zero."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.networks.layers import MatrixConv


def compressed(x: Tensor) -> Tensor:
    """4 asinh(x / 4): x where x is usual, and like a logarithm beyond."""
    return 4 * torch.asinh(x / 4)


class ConvNet(nn.Module):
    """(B, c_out, H, W) from (B, c_in, H, W): residual, pre-activation, without normalisation; the last layer starts at zero.

    It sees `compressed` x: what one coupling makes large would else make the next one's shift larger still, and so on to 10^16
    for an image that is unlike all others.
    """

    def __init__(self, c_in: int, width: int, c_out: int, *, num_blocks: int) -> None:
        super().__init__()
        self.conv_in = MatrixConv(c_in, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), MatrixConv(width, width), nn.SiLU(), MatrixConv(width, width)) for _ in range(num_blocks)
        )
        self.conv_out = MatrixConv(width, c_out)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.conv_in(compressed(x).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.conv_out(F.silu(h))
        return out


class MLP(nn.Module):
    """(B, c_out) from the kept part of x, (B, c_in): residual, pre-activation; the last layer starts at zero.

    Half of the first layer's units are sines [Sitzmann et al. 2020] whose weights start with a deviation of frequency / c_in
    radians per unit of x: sharp edges and many modes would else take long to learn. In many dimensions, where data are too few
    for either, they start nearly linear. 0: none.
    """

    def __init__(self, c_in: int, width: int, c_out: int, *, num_blocks: int, frequency: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(c_in, width)
        self.waves = width // 2 if frequency else 0
        if self.waves:
            nn.init.normal_(self.first.weight[: self.waves], std=frequency / c_in)
            nn.init.uniform_(self.first.bias[: self.waves], -math.pi, math.pi)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(num_blocks)
        )
        self.last = nn.Linear(width, c_out)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.first(x)
        if self.waves:
            h = torch.cat([h[:, : self.waves].sin(), h[:, self.waves :]], dim=1)
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.last(F.silu(h))
        return out
