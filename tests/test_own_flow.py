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
from realnvp.bijections import Affine, Bijection, Chain, Coupling


class Heavy(nn.Module):
    """A prior with a weight: independent Student t, of learned degrees of freedom."""

    def __init__(self) -> None:
        super().__init__()
        self.freedom = nn.Parameter(torch.tensor(5.0))

    def log_prob(self, z: Tensor) -> Tensor:
        return StudentT(self.freedom.clamp(min=0.5).to(z)).log_prob(z).flatten(1).sum(1)

    def sample(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(generator.standard_t(float(self.freedom), tuple(shape)))


class Scaled(Bijection):
    """z = exp(a) (x - b)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.a.exp().to(x) * (x - self.b.to(x)), self.a.to(x).expand(len(x)) * x[0].numel()

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z / self.a.exp().to(z) + self.b.to(z)


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
    return realnvp.Flow(Chain([Scaled(), *layers]), Heavy())


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
        columns = flow.pixel_log_prob(ROWS)
    assert torch.allclose(columns.sum(1), flow.log_prob(ROWS), rtol=1e-5)


def test_a_term_without_a_place_is_shared_equally() -> None:
    layer = Scaled()
    nn.init.constant_(layer.a, 0.5)
    flow, x = realnvp.Flow(Chain([layer]), Heavy()).eval(), ROWS[:10].view(1, 1, 4, 5)
    total = flow.log_prob(x)
    assert torch.allclose(flow.pixel_log_prob(x), (total / 20).expand(1, 4, 5), rtol=1e-5)


def test_an_own_layer_in_front_of_a_conditional_flow() -> None:
    flow = realnvp.vector_flow(2, context=1, width=8).eval()
    flow.bijection = Chain([Scaled(), flow.bijection]).eval()
    c = torch.ones(300, 1)
    assert torch.allclose(flow.decode(flow.encode(ROWS, c), c), ROWS, atol=1e-4)


def test_a_flow_without_configuration_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="configuration"):
        realnvp.save_flow(own(), tmp_path / "own.safetensors")
    assert not list(tmp_path.iterdir())
