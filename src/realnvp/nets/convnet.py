"""Networks of modern flows and of vectors: no batch norm, and a last layer that starts at zero."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.nets.layers import Embedding, MatrixConv


def compressed(x: Tensor) -> Tensor:
    """4 asinh(x / 4): nearly x where x is small, logarithmic where it is large."""
    return 4 * torch.asinh(x / 4)


def two_layers(layer: Callable[[int, int], nn.Module], width: int) -> nn.Sequential:
    """The residual branch of a block, pre-activation: layer(silu(layer(silu(h))))."""
    return nn.Sequential(nn.SiLU(), layer(width, width), nn.SiLU(), layer(width, width))


class ConvNet(nn.Module):
    """(B, c_out, H, W) from (B, c_in, H, W): residual, pre-activation, without normalization.

    It sees `compressed` x. Otherwise a value that one coupling makes large would make the next
    coupling's shift larger still, and so on to 10^16 for an image that is unlike all others.
    reach: how many pixels away an output sees its input: the 3x3 convolutions one after another.
    """

    def __init__(
        self, c_in: int, width: int, c_out: int, *, num_blocks: int, context: int = 0
    ) -> None:
        super().__init__()
        self.width, self.reach = width, 2 + 2 * num_blocks
        self.conv_in = MatrixConv(c_in, width)
        self.embedding = Embedding(context, width) if context else None
        self.blocks = nn.ModuleList(two_layers(MatrixConv, width) for _ in range(num_blocks))
        self.conv_out = MatrixConv(width, c_out)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.conv_in(compressed(x))
        if self.embedding is not None and context is not None:
            h.add_(self.embedding(context).to(h.dtype))
        for block in self.blocks:
            h = h + block(h)
        return self.conv_out(F.silu(h))


class MLP(nn.Module):
    """(B, c_out) from the kept part of x, (B, c_in): residual, pre-activation.

    Half of the first layer's units are sines [Sitzmann et al. 2020], without which sharp edges and
    many modes take long to learn. Their weights start with a standard deviation of sine_std /
    (c_in + context): nearly linear in many dimensions, where data are too few to show edges.
    """

    def __init__(
        self,
        c_in: int,
        width: int,
        c_out: int,
        *,
        num_blocks: int,
        sine_std: float = 0.0,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(c_in + context, width)
        self.waves = width // 2 if sine_std else 0
        if self.waves:
            nn.init.normal_(self.first.weight[: self.waves], std=sine_std / (c_in + context))
            nn.init.uniform_(self.first.bias[: self.waves], -math.pi, math.pi)
        self.blocks = nn.ModuleList(two_layers(nn.Linear, width) for _ in range(num_blocks))
        self.last = nn.Linear(width, c_out)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        if context is None:
            h = self.first(x)
        else:  # few inputs: a transposed copy of the weight halves the gradients' time
            x, weight = torch.cat([x, context], dim=1), self.first.weight.t().contiguous()
            h = torch.addmm(self.first.bias, x, weight)
        if self.waves:
            h = torch.cat([h[:, : self.waves].sin(), h[:, self.waves :]], dim=1)
        for block in self.blocks:
            h = h + block(h)
        return self.last(F.silu(h))
