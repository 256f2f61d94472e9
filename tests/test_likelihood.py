"""Bits per dimension: per image, each image counted, and every constant in its place."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from realnvp import bits_per_dim, fast, load_flow
from realnvp.bijections import BatchNorm, Chain, Logit
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.data.dataset import dequantize
from realnvp.evaluation.likelihood import log_probs, summarize
from realnvp.flows.build import build
from realnvp.flows.flow import Flow, StandardNormal, evaluating
from realnvp.moments import averaging
from realnvp.random import Purpose, uniform

MODEL = ModelConfig(num_scales=2, width=4, num_blocks=1)
CONFIG = Config(data=ImageData(shape=(3, 8, 8), augment=("hflip",)), model=MODEL)


@pytest.fixture(scope="module")
def images() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (40, 3, 8, 8), generator=random).to(torch.uint8)


@pytest.fixture(scope="module")
def flow(images: Tensor) -> Flow:
    flow = build(CONFIG)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    x = images.float() + 0.5
    for _ in range(5):
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    with averaging(flow), torch.no_grad():
        flow.log_prob(x)
    return flow.eval()


def test_batch_size_and_order_do_not_matter(flow: Flow, images: Tensor) -> None:
    whole = bits_per_dim(flow, images, noise_draws=2, seed=3, batch_size=256).per_image
    single = bits_per_dim(flow, images, noise_draws=2, seed=3, batch_size=1).per_image
    assert (whole - single).abs().max() < 1e-6
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    how = {"noise_draws": 2, "seed": 3, "indices": order.tolist(), "batch_size": 7}
    nats = log_probs(flow, images[order], **how)
    assert (-nats / (192 * math.log(2)) - whole[order]).abs().max() < 1e-6


def test_arrays_of_any_strides_are_the_tensor(flow: Flow, images: Tensor) -> None:
    expected, v = bits_per_dim(flow, images).per_image, images.numpy()
    for view in (np.ascontiguousarray(v.T).T, np.ascontiguousarray(v[..., ::-1])[..., ::-1]):
        assert torch.equal(bits_per_dim(flow, view).per_image, expected)


def test_noise_draws_are_a_mean_of_log_p(flow: Flow, images: Tensor) -> None:
    draws = []
    for draw in range(4):
        noise = uniform((3, 8, 8), 5, Purpose.EVALUATE, indices=range(40), round=draw)
        with torch.no_grad():
            draws.append(flow.log_prob(dequantize(images, noise)).double())
    expected = -torch.stack(draws).mean(0) / (192 * math.log(2))
    found = bits_per_dim(flow, images, noise_draws=4, seed=5).per_image
    assert (found - expected).abs().max() < 1e-6


def test_nothing_that_is_not_finite_is_dropped(flow: Flow, images: Tensor) -> None:
    class Hole(StandardNormal):
        def log_prob(self, z: Tensor) -> Tensor:
            return super().log_prob(z).index_fill(0, torch.tensor([1]), -math.inf)

    result = bits_per_dim(Flow(flow.bijection, Hole()), images[:5])
    assert result.nonfinite == 1
    assert not math.isfinite(result.mean)
    assert len(result.per_image) == 5


def test_standard_error() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 5.0]).double()
    plain = summarize(values)
    assert plain.mean == 3
    assert plain.standard_error == pytest.approx(values.std().item() / 2)
    assert math.isnan(summarize(values[:1]).standard_error)
    # Copies of an image are no new information.
    copies = values.repeat_interleave(10)
    clustered = summarize(copies, groups=[i for i in range(4) for _ in range(10)])
    assert clustered.standard_error == pytest.approx(plain.standard_error)
    assert summarize(copies).standard_error < plain.standard_error / 3


def test_evaluation_changes_nothing(flow: Flow, images: Tensor) -> None:
    """Neither the mode of any submodule nor a moment; and it is the same each time."""
    flow.train()
    flow.bijection.bijections[0].eval()
    modes = [module.training for module in flow.modules()]
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    first, second = bits_per_dim(flow, images), bits_per_dim(flow, images)
    assert torch.equal(first.per_image, second.per_image)
    assert [module.training for module in flow.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in flow.state_dict().items())
    flow.eval()


def test_reported_numbers_are_float32_even_inside_autocast(flow: Flow, images: Tensor) -> None:
    plain = bits_per_dim(flow, images).per_image
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bits_per_dim(flow, images).per_image, plain)
        with evaluating(flow):
            assert flow.encode(images.float()).dtype == torch.float32


def test_noise_covers_the_whole_bin() -> None:
    noise = uniform((64, 64), 0, Purpose.TRAIN, indices=range(8))
    assert noise.min() >= 0
    assert noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.01
    assert abs(noise.var() - 1 / 12) < 0.002
    own = uniform((4,), 0, Purpose.TRAIN, indices=[3])[0]
    assert torch.equal(uniform((4,), 0, Purpose.TRAIN, indices=[7, 3])[1], own)
    train, evaluate = Purpose.TRAIN, Purpose.EVALUATE
    for seed, purpose, draw in ((1, train, 0), (0, evaluate, 0), (0, train, 1)):
        assert not torch.equal(uniform((4,), seed, purpose, indices=[3], round=draw)[0], own)


def test_samples_do_not_depend_on_their_number(flow: Flow) -> None:
    whole = flow.sample(6, seed=2)
    assert (whole[:4] - flow.sample(4, seed=2)).abs().max() < 1e-3
    assert not torch.equal(flow.sample(1, seed=3), whole[:1])


def test_samples_have_the_density() -> None:
    """E log q(x) over samples is minus the entropy, and a scale that is wrong by 5 % would show."""
    flow = Flow(Chain([Logit(), BatchNorm(1)]).double().eval(), StandardNormal())
    with torch.no_grad():
        z = flow.encode(flow.sample(4000, shape=(1, 4, 4), seed=1))
    squares, count = z.square().sum().item(), z.numel()
    assert abs(squares - count) / math.sqrt(2 * count) < 3.9  # about N(0, 1): p > 1e-4
    assert abs(1.05**2 * squares - count) / math.sqrt(2 * count) > 4.9  # p < 1e-6


def test_temperature_and_extrapolation(flow: Flow) -> None:
    cold = flow.sample(2, temperature=0.0)
    assert torch.equal(cold[0], cold[1])
    assert flow.sample(1, (3, 80, 80)).isfinite().all()


def test_bad_input_is_named(flow: Flow, images: Tensor) -> None:
    x, calls = images.float(), list[tuple[Callable[[], object], str]]()
    calls += [(lambda bad=bad: flow.log_prob(bad), "x") for bad in (images, x[0], x[:, :1])]
    calls += [
        (lambda bad=bad: bits_per_dim(*bad), "images")
        for bad in ((flow, x), (load_flow("digits-8"), images[:, :1]))
    ]
    calls += [(lambda: bits_per_dim(flow, images, noise_draws=0), "noise_draws")]
    calls += [(lambda: Flow(flow.bijection, StandardNormal()).sample(1), "shape")]
    calls += [(lambda: flow.sample(0), "n")]
    for call, word in calls:
        with pytest.raises(ValueError, match=word):
            call()


def test_log_prob_encode_and_decode_are_differentiable(flow: Flow, images: Tensor) -> None:
    x = (images[:2] + 0.5).requires_grad_()
    assert torch.autograd.grad(flow.log_prob(x).sum(), x)[0].abs().min() > 0
    assert torch.autograd.grad(flow.encode(x).square().sum(), x)[0].isfinite().all()
    z = torch.zeros(2, 3, 8, 8, requires_grad=True)
    assert torch.autograd.grad(flow.decode(z).sum(), z)[0].abs().max() > 0


@pytest.mark.parametrize("quick", [False, True])
def test_with_a_float64_state_a_float32_flow_is_inverted_exactly(
    run_dir: Path, quick: bool
) -> None:
    """Trained weights; images, black, white, one-pixel checkerboards, latents of 20 sigma."""
    flow = load_flow(run_dir)
    flow, random = fast(flow) if quick else flow, torch.Generator().manual_seed(0)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 16
    planes = torch.stack([torch.zeros(8, 8), torch.full((8, 8), 16), board, 16 - board])
    images = torch.rand(64, 1, 8, 8, dtype=torch.float64, generator=random) * 17
    for x in (planes.double()[:, None] + 0.5, images):
        assert (flow.decode(flow.encode(x)) - x).abs().max() < 1e-9
        assert flow.log_prob(x).dtype == torch.float64
    for sigma in (1, 5, 20):
        x = flow.decode(sigma * torch.randn(64, 1, 8, 8, dtype=torch.float64, generator=random))
        # At the ends of the range the logit is steep.
        assert (flow.decode(flow.encode(x)) - x).abs().max() < 1e-5
