"""A flow of one's own parts: fitted, sampled and scored."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import StudentT

import realnvp
from realnvp.bijections import Affine, Bijection, Chain, Coupling, Logit, checkerboard
from realnvp.data.dataset import dequantize
from realnvp.flows.flow import StandardNormal


class Heavy(nn.Module):
    """A prior with a weight: independent Student t, of learned degrees of freedom."""

    def __init__(self) -> None:
        super().__init__()
        self.freedom = nn.Parameter(torch.tensor(5.0))

    def log_prob(self, z: Tensor) -> Tensor:
        return StudentT(self.freedom.clamp(min=0.5).to(z)).log_prob(z).flatten(1).sum(1)

    def sample(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(generator.standard_t(float(self.freedom), tuple(shape)))


class Shift(Bijection):
    """z = x - b."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x - self.b.to(x), x.new_zeros(len(x))

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z + self.b.to(z)


class Network(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def coordinate(shape: Sequence[int], device: torch.device, *, which: int) -> Tensor:
    return (torch.arange(shape[-1], device=device) == which)[None]


def own() -> realnvp.Flow:
    """Own layer, network and prior; the couplings share the network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Network(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 4))
    layers = [Coupling(partial(coordinate, which=i), net, Affine) for i in (0, 1)]
    return realnvp.Flow(Chain([Shift(), *layers]), Heavy())


ROWS = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)) + 3


def test_fit_trains_all_parts_and_remembers_the_shape() -> None:
    flow, fresh = own(), own().eval()
    realnvp.fit(flow, ROWS, max_steps=60, lr=2e-2)
    for name, weight in flow.state_dict().items():
        assert name.endswith("bound") or not torch.equal(weight, fresh.state_dict()[name]), name
    assert flow.sample(5).shape == (5, 2)
    assert realnvp.as_distribution(flow).sample((3,)).shape == (3, 2)
    with torch.no_grad():
        assert flow.log_prob(ROWS).mean() > fresh.log_prob(ROWS).mean() + 1
        # Terms without a place are shared equally.
        columns = flow.pixel_log_prob(ROWS)
    assert torch.allclose(columns.sum(1), flow.log_prob(ROWS), rtol=1e-5)


def test_an_own_layer_in_front_of_a_conditional_flow() -> None:
    flow = realnvp.vector_flow(2, context=1, width=8).eval()
    flow.bijection = Chain([Shift(), flow.bijection]).eval()
    c = torch.ones(300, 1)
    assert torch.allclose(flow.decode(flow.encode(ROWS, c), c), ROWS, atol=1e-4)


def test_a_flow_without_configuration_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="configuration"):
        realnvp.save_flow(own(), tmp_path / "own.safetensors")
    assert not list(tmp_path.iterdir())


def test_own_networks_are_fitted_to_images() -> None:
    masks = (partial(checkerboard, flip=flip) for flip in (False, True))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [Network(nn.Conv2d(1, 2, 3, padding=1)) for _ in range(2)]
    couplings = [Coupling(mask, net, Affine) for mask, net in zip(masks, nets, strict=True)]
    flow = realnvp.Flow(Chain([Logit(levels=16), *couplings]), StandardNormal())
    random = torch.Generator().manual_seed(0)
    images = torch.randint(4, 12, (60, 1, 6, 6), generator=random).to(torch.uint8)
    x = dequantize(images, torch.rand(images.shape, generator=random))
    before = realnvp.bits_per_dim(flow.eval(), images).mean
    realnvp.fit(flow, x, max_steps=40, lr=2e-2, noise=0)
    assert realnvp.bits_per_dim(flow, images).mean < before - 0.3
    assert flow.sample(2).shape == (2, 1, 6, 6)
