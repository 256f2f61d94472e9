"""A flow for pictures, previews and ranking: networks folded into convolutions of low precision."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realnvp.bijections.base import reference_tensor
from realnvp.device import has_bfloat16
from realnvp.flows.flow import Flow, refuse_fast
from realnvp.moments import EPS
from realnvp.nets.convnet import ConvNet, compressed
from realnvp.nets.kernels import conv_add, convolve, packed
from realnvp.nets.layers import Embedding, MatrixConv, Normalize, WeightNormConv
from realnvp.nets.resnet import ResidualBlock, ResNet, both_signs


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
    with torch.no_grad():
        copies: dict[int, nn.Module] = {}
        for net in flow.modules():
            if isinstance(net, ResNet):
                copies[id(net)] = _FastResNet(net, dtype)
            elif isinstance(net, ConvNet):
                copies[id(net)] = _FastConvNet(net, dtype)
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
        self.embedding = _weight(net.embedding, dtype)
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

    relu(norm(h)) = s relu(h + c), with s > 0. s goes into the weights of the convolution that comes
    next, c into the biases of the convolutions that came before. So the residual stream holds
    h + c, with the c of the block that reads it next.
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
        self.embedding = _weight(net.embedding, dtype)
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
        r = torch.addcmul(self.shift_in, x, self.scale_in)
        h = both_signs(r, mask, see_mask=self.see_mask)
        h = self.conv_in(h.to(self.dtype, memory_format=torch.channels_last))
        _embed(self.embedding, context, h)
        accumulated = self.skip_in(h)
        for conv1, conv2, skip in self.blocks:
            h = conv2.add_to(h, conv1(h.relu(), relu=True))
            accumulated = skip.add_to(accumulated, h)
        return self.conv_out(accumulated.relu_())


def _weight(embedding: Embedding | None, dtype: torch.dtype) -> Tensor | None:
    return None if embedding is None else embedding.weight.to(dtype)


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
