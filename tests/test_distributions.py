"""A flow as a `torch.distributions.Distribution`; a flow of one's own parts."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, StudentT

import realnvp
from realnvp.bijections import Affine, Bijection, Chain, Coupling
from realnvp.flows.flow import Flow, StandardNormal
from tests.flows import moved, normal


def vectors(dim: int = 3) -> Flow:
    """A flow of vectors in float64, away from its start."""
    flow = realnvp.vector_flow(dim, width=8, num_couplings=4)
    moved(flow.bijection, normal(5, dim))
    return flow.eval()


def test_is_the_flow() -> None:
    flow = vectors()
    distribution = realnvp.as_distribution(flow)
    x = normal(5, 3)
    assert (distribution.batch_shape, distribution.event_shape) == ((), (3,))
    assert torch.equal(distribution.log_prob(x), flow.log_prob(x))
    assert torch.equal(distribution.log_prob(x[0]), flow.log_prob(x[:1])[0])
    assert distribution.has_rsample
    assert distribution.support.event_dim == 1
    assert distribution.arg_constraints == {}


@pytest.mark.parametrize("batch", [(), (2,), (2, 4)])
@pytest.mark.parametrize("sample", [(), (3,), (3, 1), (0,)])
def test_shapes_are_those_of_torch(batch: tuple[int, ...], sample: tuple[int, ...]) -> None:
    distribution = realnvp.as_distribution(vectors()).expand(batch)
    like = Independent(Normal(torch.zeros(*batch, 3), 1.0), 1)
    x = distribution.sample(sample)
    assert (distribution.batch_shape, x.shape) == (like.batch_shape, like.sample(sample).shape)
    if x.numel():
        assert distribution.log_prob(x).shape == like.log_prob(x).shape
    assert distribution.log_prob(x.new_zeros(3)).shape == like.log_prob(x.new_zeros(3)).shape
    assert x.reshape(-1, 3).unique(dim=0).shape[0] == math.prod((*sample, *batch))


def test_images_reach_a_little_beyond_their_levels() -> None:
    flow = realnvp.build("digits").eval()
    distribution = realnvp.as_distribution(flow)
    x = torch.full((2, 1, 8, 8), -0.01)
    assert distribution.event_shape == (1, 8, 8)
    assert distribution.support.event_dim == 3
    assert torch.equal(distribution.log_prob(x), flow.log_prob(x))  # not refused by the support
    assert distribution.log_prob(x).isfinite().all()
    assert distribution.sample((2, 3)).shape == (2, 3, 1, 8, 8)


def test_samples_follow_torchs_generator_and_have_no_gradient() -> None:
    distribution = realnvp.as_distribution(vectors())
    torch.manual_seed(0)
    first, second = distribution.sample((4,)), distribution.sample((4,))
    torch.manual_seed(0)
    again = distribution.rsample((4,))
    assert torch.equal(first, again)
    assert not (first == second).any()
    assert (again.requires_grad, first.requires_grad) == (True, False)


def test_gradients_are_reparameterized() -> None:
    """d/dw E[h(x)] through rsample is the derivative of g(z; w) at fixed z."""
    flow = vectors()
    weight = next(p for p in flow.parameters() if p.requires_grad and p.ndim == 2)

    def value() -> Tensor:
        torch.manual_seed(3)
        return realnvp.as_distribution(flow).rsample((6,)).square().mean()

    (gradient,) = torch.autograd.grad(value(), weight)
    direction = normal(*weight.shape)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight.add_(sign * 1e-5 * direction)
            values.append(value())
            weight.sub_(sign * 1e-5 * direction)
    slope = (gradient * direction).sum().item()
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-6)


def test_bad_input() -> None:
    flow, nan = vectors(), torch.full((3,), math.nan, dtype=torch.float64)
    without_shape = Flow(flow.bijection, StandardNormal())
    with pytest.raises(ValueError, match="shape"):
        realnvp.as_distribution(without_shape)
    assert realnvp.as_distribution(without_shape, shape=(3,)).sample((2,)).shape == (2, 3)
    for x in (nan, normal(4, 2)):
        with pytest.raises(ValueError, match=r"\S"):
            realnvp.as_distribution(flow).log_prob(x)
    with pytest.raises(RuntimeError, match="eval"):
        realnvp.as_distribution(flow.train()).sample()


def test_a_guide_finds_a_banana() -> None:
    """Variational inference by reparameterized gradients: KL(guide || posterior) goes to 0."""

    def log_posterior(x: Tensor) -> Tensor:
        likelihood = Normal(x[..., 1].square() / 4, 1.0).log_prob(x[..., 0])
        return Normal(0.0, 2.0).log_prob(x[..., 1]) + likelihood

    torch.manual_seed(0)
    flow = realnvp.vector_flow(2, num_couplings=4, width=16, num_blocks=1).eval()
    guide = realnvp.as_distribution(flow)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 200)
        x = guide.rsample((128,))
        kl = (guide.log_prob(x) - log_posterior(x)).mean()
        optimizer.zero_grad()
        kl.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        x = guide.sample((4000,))
        differences = guide.log_prob(x) - log_posterior(x)
    assert differences.mean() + 3 * differences.std() / math.sqrt(4000) < 0.05


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
