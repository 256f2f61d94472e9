"""Networks whose outputs are the same bits on every machine, at the speed of float32.

A sum of products of integers is exact in float32, in whatever order it is taken, as long as no
partial sum can pass 2^24. So each convolution rounds its input and its filters to integers that
are small enough. Between convolutions there are only operations that IEEE 754 defines to the last
bit: sums, products, quotients, square roots and roundings of float32 and float64.

These networks are not quite the flow's: their activations keep 10 bits of each image's largest. A
code needs both sides to agree, and a prediction near the flow's needs nearly as few bits.
"""

import math
from collections.abc import Iterator
from functools import cache
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.codec.integers import Integers
from realnvp.device import full_precision
from realnvp.nets.convnet import ConvNet
from realnvp.nets.layers import MatrixConv

MOST_WHOLE = 1 << 24  # float32 holds all integers up to here
MOST = 1 << 9  # of the integers that a convolution sees
INPUT_BITS = 12  # after the point, of what a network sees
INPUT_LIMIT = (MOST - 1) << 8  # of the integers that a network sees: 32, before `INPUT_BITS`
CORNER = 8  # pixels that a probe compares
LARGEST = 60  # of exponents
AT_ONCE = 1 << 19  # hidden numbers: more need memory, fewer more calls


class ExactNet(nn.Module):
    """A `ConvNet` with `ExactConv`s: (B, c_out, H, W) from (B, c_in, H, W), float64."""

    def __init__(self, net: ConvNet) -> None:
        super().__init__()
        self.width, self.embedding = net.width, net.embedding
        self.conv_in, self.conv_out = ExactConv(net.conv_in), ExactConv(net.conv_out)
        self.blocks = [
            [ExactConv(layer) for layer in block.modules() if isinstance(layer, MatrixConv)]
            for block in net.blocks
        ]

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        most = max(1, AT_ONCE // (self.width * x[0, 0].numel()))
        starts = range(0, len(x), most)
        conditions = [None if context is None else context[i : i + most] for i in starts]
        parts = [self._of(x[i : i + most], c) for i, c in zip(starts, conditions, strict=True)]
        return torch.cat(parts).double()

    def _of(self, x: Tensor, context: Tensor | None) -> Tensor:
        seen = compressed(x).mul_(1 << INPUT_BITS).round_().clamp_(-INPUT_LIMIT, INPUT_LIMIT)
        h = self.conv_in.of_integers(seen.float().contiguous(memory_format=torch.channels_last))
        if self.embedding is not None and context is not None:
            h += self.embedding(context).float()  # one-hot, so no sum is rounded
        for block in self.blocks:
            r = h
            for conv in block:
                r = conv(silu(r))
            h = r.add_(h)
        return self.conv_out(silu(h))

    def constants(self) -> Iterator[Integers]:
        """The integers of the filters, and the bits of the outputs for certain numbers."""
        for conv in (self.conv_in, *chain.from_iterable(self.blocks), self.conv_out):
            yield conv.weight.long().numpy()
            yield conv.shift.long().numpy()
        count = 64 * self.conv_in.weight.shape[1]
        x = torch.linspace(-9, 9, count, dtype=torch.float64, device="cpu")
        yield self(x.view(1, -1, 8, 8), x).view(torch.int64).numpy()


class ExactConv:
    """A zero-padded 3x3 convolution of integers of at most `MOST`.

    The filters of an output are W = integers / 2^shift, as fine as their sum allows:
    MOST sum |integers| <= 2^24.
    """

    def __init__(self, layer: MatrixConv) -> None:
        filters = layer.filters().detach()
        count = filters[0].numel()
        room = (MOST_WHOLE / MOST - count / 2) / filters.abs().sum((1, 2, 3))
        self.shift = room.log2().floor().clamp(-LARGEST, LARGEST).int()
        integers = (filters * power_of_two(self.shift)[:, None, None, None]).round()
        self.weight, self.unit = integers.float(), power_of_two(-self.shift)[:, None, None]
        self.bias = layer.bias.detach().float()[:, None, None]

    def __call__(self, h: Tensor) -> Tensor:
        """conv(h), with h, which is overwritten, in steps of 2^-9 of each image's largest."""
        largest = h.abs().amax((1, 2, 3), keepdim=True)
        step = power_below(largest).clamp_(2.0 ** (-LARGEST - 1), 2.0 ** (LARGEST - 1))
        step = step.mul_(2 / MOST)
        integers = h.mul_(step.reciprocal()).round_()
        return self._convolved(integers).mul_(self.unit * step).add_(self.bias)

    def of_integers(self, x: Tensor) -> Tensor:
        """conv of integers below `MOST` 2^8, which are in steps of 2^-INPUT_BITS."""
        high = (x / 256).round_()
        total = self._convolved(x.sub_(high, alpha=256)).add_(self._convolved(high), alpha=256)
        return total.mul_(self.unit / (1 << INPUT_BITS)).add_(self.bias)

    def _convolved(self, integers: Tensor) -> Tensor:
        with full_precision():
            dtype = sum_type(integers.shape, self.weight.shape)
            return F.conv2d(integers.to(dtype), self.weight.to(dtype), padding=1).float()


@cache
def sum_type(x: torch.Size, weight: torch.Size) -> torch.dtype:
    """The type of the sums of a convolution of these shapes: float32, or float64 if that fails.

    Some libraries have faster convolutions that do more than add, and torch can be told to round
    their inputs. Which of them computes depends on the shapes. So this convolves random integers of
    these shapes, and compares two corners with float64.
    """
    random = torch.Generator().manual_seed(0)
    seen = torch.randint(-MOST, MOST + 1, x, generator=random, device="cpu").float()
    filters = torch.randint(-50, 51, weight, generator=random, device="cpu").float()
    filters[:, 0, 1, 1] = 16383  # of as many bits as a filter's integer can have
    fast = F.conv2d(seen.contiguous(memory_format=torch.channels_last), filters, padding=1)
    for image, near in ((0, slice(None, CORNER)), (-1, slice(-CORNER, None))):
        part = seen[image, :, near, near].double()
        inner = slice(None, -1) if near.start is None else slice(1, None)
        expected = F.conv2d(part, filters.double(), padding=1)[:, inner, inner]
        if not torch.equal(fast[image, :, near, near][:, inner, inner].double(), expected):
            return torch.float64
    return torch.float32


def silu(h: Tensor) -> Tensor:
    """h / (1 + e^-h), float32, to 2e-5: 2^t is 2^floor(t) times a cubic."""
    t = (h * -math.log2(math.e)).clamp_(-LARGEST, LARGEST)
    whole = t.floor()
    t -= whole
    e = (t * 0.07802371).add_(0.22606677).mul_(t).add_(0.69583452).mul_(t).add_(0.99992503)
    e.view(torch.int32).add_(whole.int(), alpha=1 << 23)  # to the exponent
    return h / e.add_(1)


def compressed(x: Tensor) -> Tensor:
    """4 asinh(x / 4), float64, to 1e-5: ln by a series in (m - r) / (m + r), r = sqrt(1/2)."""
    y = x.abs().div_(4)
    mantissa, exponent = torch.frexp((y * y).add_(1).sqrt_().add_(y))
    t = (mantissa - math.sqrt(0.5)).div_(mantissa.add_(math.sqrt(0.5)))
    square = t * t
    series = (square / 5).add_(1 / 3).mul_(square).add_(1).mul_(t.mul_(2))
    whole = (exponent - 0.5).mul_(math.log(2))
    return torch.copysign(series.add_(whole.double()), x).mul_(4)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent, float32, of int32: written as its bits, since a power may be rounded."""
    return exponent.add(127).bitwise_left_shift_(23).view(torch.float32)


def power_below(h: Tensor) -> Tensor:
    """The largest power of two that is not above h, float32."""
    return h.view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)


def make_exact(flow: nn.Module) -> None:
    """Replace the flow's convolutional networks by exact ones."""
    for module in list(flow.modules()):
        for name, child in module.named_children():
            if isinstance(child, ConvNet):
                setattr(module, name, ExactNet(child))


def exact_nets(module: nn.Module) -> list[ExactNet]:
    """The exact networks in a module."""
    return [each for each in module.modules() if isinstance(each, ExactNet)]
