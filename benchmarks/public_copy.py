"""A stand-in for the usual public PyTorch copy of Real NVP: plain modules, NCHW, float32.

As such copies are: masked couplings z = (x + t) exp(s), s and t zeroed by mask arithmetic, torch's
weight_norm and BatchNorm2d, no batch norm on the couplings' outputs, checks for NaN, a scale by
squeezing and splitting.
"""

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.config.fields import Config

Out = tuple[Tensor, Tensor]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.nn.utils import weight_norm


def conv(c_in: int, c_out: int, kernel: int, *, bias: bool = True) -> nn.Module:
    with warnings.catch_warnings():  # torch points to its newer one; copies have this one
        warnings.simplefilter("ignore")
        return weight_norm(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_norm, self.out_norm = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.in_conv, self.out_conv = conv(width, width, 3, bias=False), conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        skip = x
        x = self.in_conv(F.relu(self.in_norm(x)))
        x = self.out_conv(F.relu(self.out_norm(x)))
        return x + skip


class ResNet(nn.Module):
    def __init__(self, c_in: int, width: int, c_out: int, num_blocks: int, *, double: bool) -> None:
        super().__init__()
        self.double = double
        self.in_norm, self.out_norm = nn.BatchNorm2d(c_in), nn.BatchNorm2d(width)
        self.in_conv, self.in_skip = conv(2 * c_in, width, 3), conv(width, width, 1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(num_blocks))
        self.skips = nn.ModuleList(conv(width, width, 1) for _ in range(num_blocks))
        self.out_conv = conv(width, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_norm(x)
        if self.double:
            x = x * 2.0
        x = F.relu(torch.cat((x, -x), dim=1))
        x = self.in_conv(x)
        total = self.in_skip(x)
        for block, skip in zip(self.blocks, self.skips, strict=True):
            x = block(x)
            total = total + skip(x)
        return self.out_conv(F.relu(self.out_norm(total)))


class Rescale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class Coupling(nn.Module):
    def __init__(
        self, channels: int, width: int, num_blocks: int, i: int, *, checkerboard: bool
    ) -> None:
        super().__init__()
        self.checkerboard, self.reverse_mask = checkerboard, i % 2 == 1
        seen = channels if checkerboard else channels // 2
        self.net = ResNet(seen, width, 2 * seen, num_blocks, double=checkerboard)
        self.rescale = Rescale(seen)

    def forward(self, x: Tensor, log_det: Tensor, reverse: bool) -> Out:
        if self.checkerboard:
            rows, columns = (torch.arange(side, device=x.device) for side in x.shape[2:])
            b = ((rows[:, None] + columns) % 2).to(x.dtype)[None, None]
            b = 1 - b if self.reverse_mask else b
            s, t = self.net(x * b).chunk(2, dim=1)
            s = self.rescale(torch.tanh(s)) * (1 - b)
            return self.change(x, s, t * (1 - b), log_det, reverse)
        x_id, x_change = x.chunk(2, dim=1) if self.reverse_mask else reversed(x.chunk(2, dim=1))
        s, t = self.net(x_id).chunk(2, dim=1)
        x_change, log_det = self.change(x_change, self.rescale(torch.tanh(s)), t, log_det, reverse)
        parts = (x_id, x_change) if self.reverse_mask else (x_change, x_id)
        return torch.cat(parts, dim=1), log_det

    @staticmethod
    def change(x: Tensor, s: Tensor, t: Tensor, log_det: Tensor, reverse: bool) -> Out:
        if reverse:
            factor = s.mul(-1).exp()
            if torch.isnan(factor).any():
                raise RuntimeError("Scale factor has NaN entries")
            return x * factor - t, log_det
        factor = s.exp()
        if torch.isnan(factor).any():
            raise RuntimeError("Scale factor has NaN entries")
        return (x + t) * factor, log_det + s.flatten(1).sum(-1)


class Scale(nn.Module):
    def __init__(self, scales_left: int, channels: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.last = scales_left == 1
        self.in_couplings = nn.ModuleList(
            Coupling(channels, width, num_blocks, i, checkerboard=True)
            for i in range(4 if self.last else 3)
        )
        if not self.last:
            self.out_couplings = nn.ModuleList(
                Coupling(4 * channels, 2 * width, num_blocks, i, checkerboard=False)
                for i in range(3)
            )
            self.next = Scale(scales_left - 1, 2 * channels, 2 * width, num_blocks)

    def forward(self, x: Tensor, log_det: Tensor, reverse: bool) -> Out:
        if not reverse:
            for coupling in self.in_couplings:
                x, log_det = coupling(x, log_det, reverse)
            if not self.last:
                x = F.pixel_unshuffle(x, 2)
                for coupling in self.out_couplings:
                    x, log_det = coupling(x, log_det, reverse)
                x, log_det = self.deeper(F.pixel_shuffle(x, 2), log_det, reverse)
            return x, log_det
        if not self.last:
            x, log_det = self.deeper(x, log_det, reverse)
            x = F.pixel_unshuffle(x, 2)
            for coupling in reversed(self.out_couplings):
                x, log_det = coupling(x, log_det, reverse)
            x = F.pixel_shuffle(x, 2)
        for coupling in reversed(self.in_couplings):
            x, log_det = coupling(x, log_det, reverse)
        return x, log_det

    def deeper(self, x: Tensor, log_det: Tensor, reverse: bool) -> Out:
        x, split = F.pixel_unshuffle(x, 2).chunk(2, dim=1)
        x, log_det = self.next(x.contiguous(), log_det, reverse)
        return F.pixel_shuffle(torch.cat((x, split), dim=1), 2), log_det


class PublicCopy(nn.Module):
    """The stand-in at a preset's size: the same couplings, widths and blocks."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.data.shape is not None
        assert config.model.num_scales is not None
        self.shape = config.data.shape
        model = config.model
        self.flows = Scale(config.model.num_scales, self.shape[0], model.width, model.num_blocks)

    def log_prob(self, x: Tensor) -> Tensor:
        y = (x / 256 * 2 - 1) * 0.9
        y = (1 + y) / 2
        y = y.log() - (1.0 - y).log()
        scale = F.softplus(torch.tensor(math.log(0.1) - math.log(0.9)))
        log_det = (F.softplus(y) + F.softplus(-y) - scale).flatten(1).sum(-1)
        z, log_det = self.flows(y, log_det, False)
        prior = -0.5 * (z**2 + math.log(2 * math.pi))
        return prior.flatten(1).sum(-1) - math.log(256) * math.prod(z.shape[1:]) + log_det

    def decode(self, z: Tensor) -> Tensor:
        x, _ = self.flows(z, z.new_zeros(len(z)), True)
        return torch.sigmoid(x)
