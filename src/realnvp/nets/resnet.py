"""The network of l and m (sections 3.7, 4.1): residual, batch and weight norm, skip connections."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.nets.layers import Embedding, Normalize, WeightNormConv


class ResidualBlock(nn.Module):
    """h + conv(relu(norm(conv(relu(norm(h))))))  [20]."""

    def __init__(self, width: int, *, momentum: float) -> None:
        super().__init__()
        self.norm1 = Normalize(width, momentum=momentum)
        self.conv1 = WeightNormConv(width, width, 3, bias=False)  # norm2 shifts
        self.norm2 = Normalize(width, momentum=momentum)
        self.conv2 = WeightNormConv(width, width, 3, gain=True)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv2.add_to(h, self.norm2(self.conv1(self.norm1(h))))


class ResNet(nn.Module):
    """(B, c_out, H, W) from the kept part of x, (B, c_in, H, W), and its mask.

    The outputs of the first convolution and of every block reach the end over skip connections.
    see_mask: the mask is one more input plane, and x is doubled since half of it is masked to zero.
    momentum: rho of eq 15-16.
    reach: how many pixels away an output sees its input: the 3x3 convolutions one after another.
    """

    def __init__(
        self,
        c_in: int,
        width: int,
        c_out: int,
        *,
        num_blocks: int,
        momentum: float = 0.0,
        see_mask: bool = False,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.width, self.reach, self.see_mask = width, 1 + 2 * num_blocks, see_mask
        self.norm_in = Normalize(c_in, momentum=momentum, relu=False)
        self.conv_in = WeightNormConv(2 * c_in + see_mask, width, 3)
        self.embedding = Embedding(context, width) if context else None
        self.skip_in = WeightNormConv(width, width, 1, gain=True)
        blocks = range(num_blocks)
        self.blocks = nn.ModuleList(ResidualBlock(width, momentum=momentum) for _ in blocks)
        self.skips = nn.ModuleList(WeightNormConv(width, width, 1, gain=True) for _ in blocks)
        self.norm_out = Normalize(width, momentum=momentum)
        self.conv_out = WeightNormConv(width, c_out, 1, gain=True)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.conv_in(both_signs(self.norm_in(x), mask, see_mask=self.see_mask))
        if self.embedding is not None and context is not None:
            h.add_(self.embedding(context).to(h.dtype))
        accumulated = self.skip_in(h)
        for block, skip in zip(self.blocks, self.skips, strict=True):
            h = block(h)
            assert isinstance(skip, WeightNormConv)
            accumulated = skip.add_to(accumulated, h, in_place=True)
        return self.conv_out(self.norm_out(accumulated))


def both_signs(r: Tensor, mask: Tensor, *, see_mask: bool) -> Tensor:
    """Input of the first convolution: relu([r, -r]); see_mask: relu([2 r, -2 r, mask])."""
    if see_mask:
        plane = mask.to(r.dtype).expand(r.shape[0], 1, *r.shape[2:])
        h = torch.cat([2 * r, -2 * r, plane], dim=1)
    else:
        h = torch.cat([r, -r], dim=1)
    return h.relu_()


class ChannelSplitNet(nn.Module):
    """The network of a channel-wise coupling, which sees only the kept half of the channels.

    net maps the kept half, (B, C/2, H, W), to (B, k C/2, H, W), for the changed half. The result,
    (B, k C, H, W), is zero for the kept half.
    flip: the second half is kept.
    """

    def __init__(self, net: nn.Module, *, flip: bool) -> None:
        super().__init__()
        self.net = net
        self.flip = flip
        self.width, self.reach = getattr(net, "width", 0), getattr(net, "reach", 0)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        channels = x.shape[1]
        kept, changed = self.halves(channels)
        condition = () if context is None else (context,)
        output = self.net(x[:, kept], mask, *condition)
        output = output.unflatten(1, (-1, channels // 2))  # (B, k, C/2, H, W)
        around = changed.start, channels - changed.stop
        return F.pad(output, (0, 0, 0, 0, *around)).flatten(1, 2)

    def halves(self, channels: int) -> tuple[slice, slice]:
        """The channels that are kept, and those that change."""
        first, second = slice(0, channels // 2), slice(channels // 2, channels)
        return (second, first) if self.flip else (first, second)
