"""Affine-coupling flows of vectors as other libraries have them, sized as `realnvp.vector_flow`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from realnvp.config import ModelConfig


class Peer(nn.Module):
    """A library's flow; draw(n) are its samples, and nats(x) its log-densities, (B,)."""

    def __init__(self, flow: nn.Module, nats: Callable[[Tensor], Tensor], draw: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.flow, self.nats, self.draw = flow, nats, draw

    def forward(self, x: Tensor) -> Tensor:
        return self.nats(x)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, D)."""
        return self.draw(n)


def zuko(model: ModelConfig, dim: int) -> Peer:
    """zuko.flows.RealNVP; its networks are no residual ones, but have as many layers of that width."""
    from zuko.flows import RealNVP

    hidden = (model.width,) * (2 * model.num_blocks + 1)
    flow = RealNVP(dim, transforms=model.num_couplings, hidden_features=hidden, activation=nn.SiLU)
    return Peer(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def nflows(model: ModelConfig, dim: int) -> Peer:
    """nflows' SimpleRealNVP, of residual networks."""
    from nflows.flows.realnvp import SimpleRealNVP

    flow = SimpleRealNVP(dim, model.width, model.num_couplings, model.num_blocks, activation=nn.functional.silu)
    return Peer(flow, flow.log_prob, flow.sample)


PEERS = {"zuko": zuko, "nflows": nflows}
