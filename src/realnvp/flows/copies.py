"""Two copies of a flow: one that is fast, and one that takes large images in strips."""

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.bijections import Bijection, Coupling, Logit, VariationalDequantization
from realnvp.bijections.base import reference_tensor
from realnvp.device import has_bfloat16
from realnvp.flows.flow import Flow, refuse_fast
from realnvp.moments import EPS
from realnvp.nets.convnet import ConvNet, compressed
from realnvp.nets.kernels import conv_add, convolve, packed
from realnvp.nets.layers import MatrixConv, Normalize, WeightNormConv
from realnvp.nets.resnet import ResidualBlock, ResNet, both_signs
from realnvp.progress import track_slices

MEMORY = 2**28  # bytes of the networks of one strip
CACHED = 2**25  # bytes: on a CPU a strip of more is slower, unless much of it would be overlap
PLANES = 6  # that a network holds at once, each of its width
LOGIT_PLANES = 5  # that the logit holds, in place of a network's width


def fast(flow: Flow, *, dtype: torch.dtype | None = None) -> Flow:
    """A copy of a flow of images in eval mode, several times as fast, without gradients.

    Weights are laid out for the flow's device: move or convert the original, not the copy. z and
    log-det keep their type. `bits_per_dim` and `save_flow` refuse the copy.

    dtype: type of the networks. bfloat16 is off by a few nats in thousands, float32 by rounding.
    None: bfloat16 if the device has fast instructions for it, else float32.
    """
    refuse_fast(flow, "take")
    if dtype is None:
        dtype = torch.bfloat16 if has_bfloat16(reference_tensor(flow).device) else torch.float32
    kinds: dict[type, Any] = {ResNet: _FastResNet, ConvNet: _FastConvNet}
    with torch.no_grad():
        nets = [net for net in flow.modules() if type(net) in kinds]
        copies = {id(net): kinds[type(net)](net, dtype) for net in nets}
    copied = copy.deepcopy(flow, copies)  # takes the fast networks for copies that it made
    copied.exact = False
    return copied.eval().requires_grad_(False)


class _FastConvNet(nn.Module):
    """`ConvNet` with packed weights."""

    def __init__(self, net: ConvNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.width, self.reach = dtype, net.width, net.reach
        convs = [module for module in net.modules() if isinstance(module, MatrixConv)]
        self.conv_in, *inner, self.conv_out = [_Convolution(conv, dtype) for conv in convs]
        self.embedding = None if net.embedding is None else net.embedding.weight.to(dtype)
        self.blocks = list(zip(inner[::2], inner[1::2], strict=True))

    @torch.no_grad()
    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.conv_in(compressed(x).to(self.dtype, memory_format=torch.channels_last))
        _embed(self.embedding, context, h)
        for conv1, conv2 in self.blocks:
            h = conv2.add_to(h, F.silu(conv1(F.silu(h)), inplace=True))
        return self.conv_out(F.silu(h, inplace=True))


class _FastResNet(nn.Module):
    """`ResNet` in eval mode as convolutions, ReLUs and sums.

    relu(norm(h)) = s relu(h + c), with s > 0. s goes into the weights of the next convolution, c
    into the biases before. So the residual stream holds h + c, of the block that reads it next.
    """

    def __init__(self, net: ResNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.see_mask = dtype, net.see_mask
        self.width, self.reach = net.width, net.reach
        scale_in, shift_in = _affine(net.norm_in)
        self.scale_in = nn.Buffer(scale_in[:, None, None], persistent=False)
        self.shift_in = nn.Buffer(shift_in[:, None, None], persistent=False)
        blocks = [block for block in net.blocks if isinstance(block, ResidualBlock)]
        pairs = [_scale_and_offset(block.norm1) for block in blocks]
        shifts = [*(shift for _, shift in pairs), torch.zeros_like(net.norm_out.beta)]
        scale_out, shift_out = _scale_and_offset(net.norm_out)

        self.conv_in = _Convolution(net.conv_in, dtype, plus=shifts[0])
        self.embedding = None if net.embedding is None else net.embedding.weight.to(dtype)
        self.skip_in = _Convolution(net.skip_in, dtype, sees=shifts[0], plus=shift_out)
        self.blocks = []
        for i, (block, skip) in enumerate(zip(blocks, net.skips, strict=True)):
            assert isinstance(skip, WeightNormConv)
            (scale1, _), (scale2, shift2) = pairs[i], _affine(block.norm2)
            conv1 = _Convolution(block.conv1, dtype, times_in=scale1, times_out=scale2, plus=shift2)
            conv2 = _Convolution(block.conv2, dtype, plus=shifts[i + 1] - shifts[i])
            self.blocks.append((conv1, conv2, _Convolution(skip, dtype, sees=shifts[i + 1])))
        self.conv_out = _Convolution(net.conv_out, dtype, times_in=scale_out)

    @torch.no_grad()
    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        normalized = torch.addcmul(self.shift_in, x, self.scale_in)
        h = both_signs(normalized, mask, see_mask=self.see_mask)
        h = self.conv_in(h.to(self.dtype, memory_format=torch.channels_last))
        _embed(self.embedding, context, h)
        accumulated = self.skip_in(h)
        for conv1, conv2, skip in self.blocks:
            h = conv2.add_to(h, conv1(h.relu(), relu=True))
            accumulated = skip.add_to(accumulated, h)
        return self.conv_out(accumulated.relu_())


def _embed(embedding: Tensor | None, context: Tensor | None, h: Tensor) -> None:
    """Add the embedded condition, if there is one, to the hidden planes h, in place."""
    if embedding is not None and context is not None:
        h += (context.to(h.dtype) @ embedding)[:, :, None, None]


def _affine(norm: Normalize) -> tuple[Tensor, Tensor]:
    """norm(h) = scale h + shift in eval mode."""
    scale = torch.rsqrt(norm.moments.var + EPS)
    return scale, norm.beta - norm.moments.mean * scale


def _scale_and_offset(norm: Normalize) -> tuple[Tensor, Tensor]:
    """norm(h) = scale (h + offset)."""
    scale, shift = _affine(norm)
    return scale, shift / scale


class _Convolution:
    """times_out conv(times_in (h - sees)) + plus as one convolution: vectors over channels.

    sees: for 1x1 convolutions only, since larger kernels also see the zeros around the image.
    """

    def __init__(
        self,
        conv: WeightNormConv | MatrixConv,
        dtype: torch.dtype,
        *,
        times_in: Tensor | None = None,
        times_out: Tensor | None = None,
        sees: Tensor | None = None,
        plus: Tensor | float = 0.0,
    ) -> None:
        weight = conv.filters()
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias
        if times_in is not None:
            weight = weight * times_in[:, None, None]
        if times_out is not None:
            weight, bias = weight * times_out[:, None, None, None], bias * times_out
        if sees is not None:
            bias = bias - weight[:, :, 0, 0] @ sees
        self.weight = packed(weight.to(dtype, memory_format=torch.channels_last))
        self.bias = (bias + plus).to(dtype)

    def __call__(self, h: Tensor, *, relu: bool = False) -> Tensor:
        return convolve(h, self.weight, self.bias, relu=relu)

    def add_to(self, total: Tensor, h: Tensor) -> Tensor:
        """total + conv(h), in place of total."""
        return conv_add(h, self.weight, self.bias, total, in_place=True)


def tiled(flow: Flow, *, memory: int = MEMORY) -> Flow:
    """The same flow, with the same weights, whose densities of large images take bounded memory.

    A network sees as few pixels far as it has 3x3 convolutions one after another. So strips that
    overlap by so many rows return the whole image's outputs, exactly, however far the flow sees:
    between two layers the image is whole.

    memory: bytes for the networks of one strip. Networks that have no `reach` see the whole image.
    """
    kinds = Coupling | VariationalDequantization | Logit
    # deepcopy takes these for copies that it made.
    copies: dict[int, Any] = {id(each): each for each in chain(flow.parameters(), flow.buffers())}
    copies |= {id(f): InStrips(f, memory) for f in flow.modules() if isinstance(f, kinds)}
    return copy.deepcopy(flow, copies)


class InStrips(Bijection):
    """f itself, whose network sees strips on the way from data to noise."""

    def __init__(self, f: Coupling | VariationalDequantization | Logit, memory: int) -> None:
        super().__init__()
        self.f, self.memory, self.training = f, memory, f.training

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        height = x.shape[2]
        rows, overlap = self._strips(x)
        if rows >= height:
            return self.f.pointwise_log_det(x, context)
        z, log_det = torch.empty_like(x), torch.empty_like(x)
        for strip in track_slices(height, rows, "rows"):
            top, bottom = max(0, strip.start - overlap), min(height, strip.stop + overlap)
            inner = slice(strip.start - top, strip.stop - top)
            z_strip, terms = self.f.pointwise_log_det(x[:, :, top:bottom], context)
            z[:, :, strip], log_det[:, :, strip] = z_strip[:, :, inner], terms[:, :, inner]
        return z, log_det

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.f.inverse(z, context)

    def _strips(self, x: Tensor) -> tuple[int, int]:
        """The rows of a strip, and the rows that it sees of each neighbor."""
        net = getattr(self.f, "net", None)
        planes, reach = getattr(net, "width", 0), getattr(net, "reach", 0)
        planes = LOGIT_PLANES if net is None else planes
        if not planes:
            return x.shape[2], 0
        # The network of the noise sees 2x2 squares as channels.
        squeezed = isinstance(self.f, VariationalDequantization)
        overlap = 2 * reach if squeezed else reach + reach % 2
        bytes_of_row = 4 * PLANES * planes * x.shape[3] // (4 if squeezed else 1)
        # Strips begin at even rows, where a checkerboard begins, and 2x2 squares.
        rows = self.memory // bytes_of_row
        if x.device.type == "cpu":
            rows = min(rows, max(CACHED // bytes_of_row, 8 * overlap))
        return max(2, rows // 2 * 2), overlap
