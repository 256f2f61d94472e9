"""The paper's recursion assembled from the affine couplings of general flow libraries, as their users would have to.

They have no checkerboard: the two colours of an image are put behind each other as channels, (2C, H, W/2), for a channel-wise
coupling. So their networks see half as many pixels, and multiply less: 7.7 instead of 10.9 GFLOP.
zuko has no convolutional coupling; it is for tables.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from benchmarks.public_copy import ResNet
from realnvp.config import Config

Coupling = Callable[[int, int, int, bool], nn.Module]


class Peer(nn.Module):
    """A multi-scale flow; coupling(channels, width, num_blocks, flip) is the library's, mapping x to (z, log_det) and back."""

    def __init__(self, config: Config, coupling: Coupling) -> None:
        super().__init__()
        assert config.data.shape is not None
        assert config.model.num_scales is not None
        channels, width, blocks = config.data.shape[0], config.model.width, config.model.num_blocks
        self.scales = nn.ModuleList()
        for scale in range(config.model.num_scales):
            last = scale == config.model.num_scales - 1
            colours = [coupling(2 * channels, width, blocks, i % 2 == 1) for i in range(4 if last else 3)]
            squeezed = [] if last else [coupling(4 * channels, 2 * width, blocks, i % 2 == 1) for i in range(3)]
            self.scales.append(nn.ModuleList([nn.ModuleList(colours), nn.ModuleList(squeezed)]))
            channels, width = 2 * channels, 2 * width

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats; the logit's constants left out, which cost nothing."""
        p = 0.05 + 0.9 * x / 256
        x = p.log() - torch.log1p(-p)
        total = (-p.log() - torch.log1p(-p)).flatten(1).sum(1)
        for colours, squeezed in self.scales:
            for coupling in colours:
                h, log_det = coupling(to_channels(x))
                x, total = from_channels(h), total + log_det
            if squeezed:
                x = pixel_unshuffle(x, 2)
                for coupling in squeezed:
                    x, log_det = coupling(x)
                    total = total + log_det
                x, z = pixel_unshuffle(pixel_shuffle(x, 2), 2).chunk(2, dim=1)
                total = total - 0.5 * z.square().flatten(1).sum(1)
        return total - 0.5 * x.square().flatten(1).sum(1)

    def decode(self, z: Tensor) -> Tensor:
        """Pixels of z, of the image's shape."""
        latents = []
        for _ in self.scales[:-1]:
            z, latent = pixel_unshuffle(z, 2).chunk(2, dim=1)
            latents.append(latent)
        for colours, squeezed in reversed(self.scales):
            if squeezed:
                z = pixel_unshuffle(pixel_shuffle(torch.cat([z, latents.pop()], dim=1), 2), 2)
                for coupling in reversed(squeezed):
                    z, _ = coupling.inverse(z)
                z = pixel_shuffle(z, 2)
            for coupling in reversed(colours):
                z = from_channels(coupling.inverse(to_channels(z))[0])
        return z.sigmoid()


def to_channels(x: Tensor) -> Tensor:
    """(B, 2C, H, W/2): the pixels of one colour of the checkerboard, then those of the other."""
    pairs = x.unflatten(-1, (-1, 2))
    odd_row = torch.arange(x.shape[2], device=x.device)[:, None, None] % 2 == 1
    return torch.cat(torch.where(odd_row, pairs.flip(-1), pairs).unbind(-1), dim=1)


def from_channels(h: Tensor) -> Tensor:
    """The way back."""
    pairs = torch.stack(h.chunk(2, dim=1), dim=-1)
    odd_row = torch.arange(h.shape[2], device=h.device)[:, None, None] % 2 == 1
    return torch.where(odd_row, pairs.flip(-1), pairs).flatten(-2)


def nflows(config: Config) -> nn.Module:
    """nflows' AffineCouplingTransform with its ConvResidualNet and batch norm."""
    from nflows.nn.nets import ConvResidualNet
    from nflows.transforms import AffineCouplingTransform

    def coupling(channels: int, width: int, blocks: int, flip: bool) -> nn.Module:
        mask = torch.cat([torch.zeros(channels // 2), torch.ones(channels // 2)])

        def net(c_in: int, c_out: int) -> nn.Module:
            return ConvResidualNet(c_in, c_out, width, num_blocks=blocks, use_batch_norm=True)

        return AffineCouplingTransform(1 - mask if flip else mask, net)

    return Peer(config, coupling)


class _Reversed(nn.Module):
    """normflows maps noise to data."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow.inverse(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow(z)


def normflows(config: Config) -> nn.Module:
    """normflows' AffineCouplingBlock with the stand-in's network, since it has no convolutional one with batch norm."""
    from normflows.flows import AffineCouplingBlock

    def coupling(channels: int, width: int, blocks: int, flip: bool) -> nn.Module:
        net = ResNet(channels // 2, width, channels, blocks, double=False)
        nn.init.zeros_(net.out_conv.weight_g)  # its scale is not bounded, so start at 1
        return _Reversed(AffineCouplingBlock(net, split_mode="channel_inv" if flip else "channel"))

    return Peer(config, coupling)


PEERS = {"normflows": normflows, "nflows": nflows}
