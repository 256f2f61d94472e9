"""A flow of one's own parts: fitted, sampled, scored, saved, and loaded into one built again."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import StudentT

import realnvp
from realnvp.bijections import AffineCoupling, Bijection, Chain, Logit, checkerboard
from realnvp.cli.main import run
from realnvp.data import dequantize
from realnvp.flows.flow import StandardNormal
from realnvp.io.files import DamagedError
from realnvp.training.loop import train


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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x - self.b.to(x), x.new_zeros(len(x))

    def _inverse(self, z: Tensor) -> Tensor:
        return z + self.b.to(z)


class Network(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, 4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def coordinate(shape: Sequence[int], device: torch.device, *, which: int) -> Tensor:
    return (torch.arange(shape[-1], device=device) == which)[None]


def own(width: int = 8, *, couplings: int = 2) -> realnvp.Flow:
    """Own layer, network and prior; the couplings share the network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Network(width)
    layers = [AffineCoupling(partial(coordinate, which=i % 2), net) for i in range(couplings)]
    return realnvp.Flow(Chain([Shift(), *layers]), Heavy())


ROWS = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)) + 3


@pytest.fixture(scope="module")
def fitted() -> realnvp.Flow:
    flow = own()
    realnvp.fit(flow, ROWS, max_steps=60, lr=2e-2)
    return flow


def test_fit_trains_all_parts_and_remembers_the_shape(fitted: realnvp.Flow) -> None:
    fresh = own().state_dict()  # of the same seed
    for name, weight in fitted.state_dict().items():
        assert name.endswith("bound") or not torch.equal(weight, fresh[name]), name
    assert fitted.shape == (2,)
    assert fitted.sample(5).shape == (5, 2)
    assert realnvp.as_distribution(fitted).sample((3,)).shape == (3, 2)
    with torch.no_grad():
        assert fitted.log_prob(ROWS).mean() > own().eval().log_prob(ROWS).mean() + 1


class Wrong(Shift):
    """What forward returns is given."""

    def __init__(self, returned: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.returned = returned

    def forward(self, x: Tensor) -> Any:
        return self.returned(x)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda x: x, "too many values to unpack"),
        (lambda x: (x, x), r"log_det of shape \(3, 2\)"),
        (lambda x: (x[:, :1], x[:, 0]), r"z of shape \(3, 1\)"),
        (lambda x: (x, x[0, 0]), r"log_det of shape \(\)"),
    ],
)
def test_a_bijection_that_is_none_is_told(returned: Callable[[Tensor], Any], words: str) -> None:
    flow = realnvp.Flow(Wrong(returned), Heavy())
    with pytest.raises(ValueError, match=rf"flow: forward\(x\) of a bijection returns.*{words}"):
        realnvp.fit(flow, ROWS, max_steps=1)


def test_a_flow_without_weights_is_told() -> None:
    with pytest.raises(ValueError, match="flow: has no weights to fit"):
        realnvp.fit(realnvp.Flow(Chain([]), StandardNormal()), ROWS, max_steps=1)


def test_saved_and_loaded_into_a_flow_built_again(fitted: realnvp.Flow, tmp_path: Path) -> None:
    realnvp.save_flow(fitted, tmp_path / "own", facts={"data": "rows"})
    built = own()
    again = realnvp.load_flow(tmp_path / "own", flow=built)
    assert again is built
    assert not again.training
    assert again.shape == (2,)
    assert torch.equal(again.log_prob(ROWS), fitted.log_prob(ROWS))
    assert torch.equal(again.sample(4), fitted.sample(4))
    assert "Chain of Shift, AffineCoupling; Heavy" in (tmp_path / "own" / "README.md").read_text()


def test_without_a_built_flow_one_line_says_what_to_do(
    fitted: realnvp.Flow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    realnvp.save_flow(fitted, tmp_path / "own")
    words = r"\(Chain of Shift, AffineCoupling; Heavy\).*realnvp\.load_flow\('.*own', flow=built\)"
    with pytest.raises(ValueError, match=words):
        realnvp.load_flow(tmp_path / "own")
    assert run(["sample", str(tmp_path / "own")]) == 2
    assert "flow=built" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("built", "words"),
    [
        (own(9), r"bijections\.1\.net\.layers\.0\.weight is float32 \(8, 2\) there, float32 \(9,"),
        (own(couplings=3), r"bijections\.3\..* is missing there, float32"),
        (own(couplings=1), r"bijections\.2\..* there, missing here"),
        (own().double(), r"is float32 .* there, float64 "),
    ],
)
def test_a_flow_built_otherwise_names_the_first_weight_that_does_not_fit(
    fitted: realnvp.Flow, tmp_path: Path, built: realnvp.Flow, words: str
) -> None:
    realnvp.save_flow(fitted, tmp_path / "own")
    before = {name: weight.clone() for name, weight in built.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        realnvp.load_flow(tmp_path / "own", flow=built)
    assert all(torch.equal(weight, before[name]) for name, weight in built.state_dict().items())


def test_a_built_flow_takes_the_weights_of_a_flow_with_a_configuration(run_dir: Path) -> None:
    saved = realnvp.load_flow(run_dir)
    assert saved.config is not None
    built = realnvp.load_flow(run_dir, flow=realnvp.build(saved.config))
    assert torch.equal(built.sample(2), saved.sample(2))


def test_damage_is_told(fitted: realnvp.Flow, tmp_path: Path) -> None:
    realnvp.save_flow(fitted, tmp_path / "own")
    (tmp_path / "own" / "parts.json").unlink()
    with pytest.raises(DamagedError, match=r"parts\.json"):
        realnvp.load_flow(tmp_path / "own", flow=own())


def test_parts_say_the_shape(fitted: realnvp.Flow, tmp_path: Path) -> None:
    realnvp.save_flow(fitted, tmp_path / "own")
    told = json.loads((tmp_path / "own" / "parts.json").read_text())
    assert told == {"classes": "Chain of Shift, AffineCoupling; Heavy", "shape": [2]}


def test_own_networks_are_fitted_to_images() -> None:
    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out

    masks = (partial(checkerboard, flip=flip) for flip in (False, True))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        couplings = [AffineCoupling(mask, Convolutions()) for mask in masks]
    flow = realnvp.Flow(Chain([Logit(levels=16), *couplings]), StandardNormal())
    random = torch.Generator().manual_seed(0)
    images = torch.randint(4, 12, (60, 1, 6, 6), generator=random).to(torch.uint8)
    x = dequantize(images, torch.rand(images.shape, generator=random))
    before = realnvp.bits_per_dim(flow.eval(), images).mean
    realnvp.fit(flow, x, max_steps=40, lr=2e-2, noise=0)
    assert realnvp.bits_per_dim(flow, images).mean < before - 0.3
    assert flow.sample(2).shape == (2, 1, 6, 6)


def test_train_says_what_trains_a_built_flow(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config: takes a realnvp\.Config, got Flow; .*\.fit\("):
        train(own(), tmp_path / "r")  # type: ignore[arg-type]
    assert not (tmp_path / "r").exists()
