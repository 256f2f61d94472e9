"""Conditional flows: p(x | c) of classes and of columns."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

import realnvp
from realnvp.bijections import AffineCoupling, Bijection, Chain
from realnvp.config import Config, ImageData, ModelConfig
from realnvp.export import Call, export_onnx, export_program
from realnvp.flows.context import Classes
from realnvp.nets.convnet import MLP, ConvNet
from realnvp.nets.layers import Embedding
from realnvp.training.checkpointing import recompute
from tests.flows import normal, pixels

NAMES = ("frown", "neutral", "smile")
ARCHITECTURES = ("paper", "modern", "vector")


def moved(flow: realnvp.Flow) -> realnvp.Flow:
    """Weights away from their start, where a condition changes nothing."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return flow


def faces(architecture: Any = "modern", *, classes: bool = True, **model: Any) -> realnvp.Flow:
    """A flow of images given a class."""
    names = NAMES if classes else None
    data = ImageData(shape=(1, 8, 8), classes=classes, class_names=names)
    sizes = {"num_scales": 2, "width": 8, "num_blocks": 1, "num_couplings": 2}
    return realnvp.build(Config(data=data, model=ModelConfig(architecture, **sizes | model)))


def conditional(architecture: str, **model: Any) -> tuple[realnvp.Flow, Tensor, Tensor]:
    """A flow in eval mode, x, and c of each x."""
    if architecture == "vector":
        flow, x, c = realnvp.vector_flow(3, context=2, width=8), normal(5, 3), normal(5, 2).float()
    else:
        flow, x, c = faces(architecture, **model), pixels(5, 1, 8, 8), torch.tensor([2, 0, 1, 1, 0])
    return moved(flow).eval(), x.float(), c


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_x_is_given_its_own_condition(architecture: str) -> None:
    flow, x, c = conditional(architecture)
    with torch.no_grad():
        whole = flow.log_prob(x, context=c)
        alone = torch.cat([flow.log_prob(x[i : i + 1], context=c[i : i + 1]) for i in range(5)])
        one_for_all = flow.log_prob(x, context=c[0])
        others = flow.log_prob(x, context=c.flip(0))
    assert torch.allclose(whole, alone)
    assert torch.allclose(one_for_all[0], whole[0])
    assert ((whole - others).abs() > 1e-3).sum() == 4  # the third has the same c in both


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_samples_follow_their_condition_and_their_seed(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, x, c = conditional(architecture)
    samples = flow.sample(5, context=c, seed=1)
    z = flow.encode(samples, context=c)
    assert torch.allclose(flow.decode(z, context=c), samples, atol=1e-3)
    latents = flow.latents(range(5), x.shape[1:], 1).float()
    assert torch.allclose(z, latents, atol=1e-3)
    assert torch.allclose(flow.sample(2, context=c[3:], seed=1, first=3), samples[3:])
    monkeypatch.setattr("realnvp.flows.flow.batch_that_fits", lambda shape: 2)
    assert torch.allclose(flow.sample(5, context=c, seed=1), samples, atol=1e-4)


@pytest.mark.parametrize("architecture", ["paper", "modern"])
def test_a_fresh_conditional_flow_is_the_unconditional(architecture: str) -> None:
    x = pixels(2, 1, 8, 8).float()
    plain, context = faces(architecture, classes=False).eval(), faces(architecture).eval()
    assert torch.equal(context.log_prob(x, context="smile"), plain.log_prob(x))


def test_networks_of_every_second_coupling_see_the_condition() -> None:
    flow = faces(num_couplings=4, dequantization="variational")
    nets = [net for net in flow.modules() if isinstance(net, ConvNet)]
    seeing = [net.embedding is not None for net in nets]
    # The noise's network; a scale's four, and its prior's; the last scale's four.
    assert seeing == [True, *[False, True, False, True], True, *[False, True, False, True]]


def test_the_mixture_and_bayes_rule() -> None:
    flow, x, _ = conditional("modern")
    assert isinstance(flow.condition, Classes)
    flow.condition.count(torch.tensor([0, 1, 1, 2]))
    with torch.no_grad():
        joint = torch.stack([flow.log_prob(x, context=name) for name in NAMES], dim=1)
        joint += torch.tensor([0.25, 0.5, 0.25]).log()
        mixture = joint.exp().sum(1).log() if joint.min() > -80 else joint.logsumexp(1)
        assert torch.allclose(flow.mixture_log_prob(x), mixture)
        posterior = flow.class_log_probs(x)
    assert torch.allclose(posterior, joint - mixture[:, None], atol=1e-4)
    assert torch.allclose(posterior.exp().sum(1), torch.ones(5))


def test_autocast_does_not_round_the_embedding() -> None:
    """It would take longer, too."""
    embedding, c = Embedding(3, 8), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(embedding.weight, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        embedded = embedding(c)
    assert torch.equal(embedded[:, :, 0, 0], c @ embedding.weight)


def test_a_network_sees_columns_beside_x() -> None:
    x, c, mask = normal(5, 2).float(), normal(5, 3).float(), torch.tensor(True)
    net = MLP(2, 8, 4, num_blocks=1, context=3)
    of_five = MLP(5, 8, 4, num_blocks=1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    of_five.load_state_dict(net.state_dict())
    assert torch.allclose(net(x, mask, c), of_five(torch.cat([x, c], 1), mask), rtol=1e-4)


def test_columns_whose_sum_is_not_finite_are() -> None:
    flow, x, c = conditional("vector")
    c[0] = 3e38
    assert c.sum().isinf()
    assert flow.condition_of_each(c, len(x)).equal(c)


class Shifted(Bijection):
    """A user's, which knows of no condition."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x.new_zeros(len(x))

    def _inverse(self, z: Tensor) -> Tensor:
        return z - 1


def test_a_bijection_that_knows_of_no_condition_goes_on_working() -> None:
    flow, x, c = conditional("vector")
    flow.bijection = Chain([Shifted(), flow.bijection]).eval()
    assert torch.allclose(flow.decode(flow.encode(x, context=c), context=c), x, atol=1e-4)
    assert Shifted()(x, c[:, :1])[0].equal(x + 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recomputed_saved_and_fast(architecture: str, tmp_path: Path) -> None:
    flow, x, c = conditional(architecture)
    realnvp.save_flow(flow, tmp_path / "flow")
    with torch.no_grad():
        nats = flow.log_prob(x, context=c)
        assert torch.equal(realnvp.load_flow(tmp_path / "flow").log_prob(x, context=c), nats)
        if architecture != "vector":
            fast = realnvp.fast(flow, dtype=torch.float32).log_prob(x, context=c)
            assert torch.allclose(fast, nats, rtol=1e-4)
    gradients = []
    for each in (flow, recompute(copy.deepcopy(flow))):
        each.train().log_prob(x, context=c).sum().backward()
        gradients.append([p.grad for p in each.parameters() if p.grad is not None])
    assert len(gradients[0]) > 0
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_program_takes_the_condition(architecture: str) -> None:
    flow, x, c = conditional(architecture)
    program = export_program(flow).module()
    for count in (1, 2, 5):
        with torch.no_grad():
            expected = flow.log_prob(x[:count], context=c[:count])
            assert torch.equal(program(x[:count], c[:count]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["decode", "class_log_probs"])
def test_onnx_takes_the_condition(call: Call, tmp_path: Path) -> None:
    flow, x, c = conditional("modern", num_scales=1, num_couplings=1)
    export_onnx(flow, tmp_path / "flow.onnx", call=call)
    session = onnxruntime.InferenceSession(
        tmp_path / "flow.onnx", providers=["CPUExecutionProvider"]
    )
    inputs = {"x": x} if call == "class_log_probs" else {"x": x / 256, "given": c}
    assert [each.name for each in session.get_inputs()] == [*inputs]
    for count in (1, 5):
        some = [each[:count] for each in inputs.values()]
        with torch.no_grad():
            expected = getattr(flow, call)(*some).numpy()
        named = dict(zip(inputs, (each.numpy() for each in some), strict=True))
        assert np.abs(session.run(None, named)[0] - expected).max() < 2e-3


def test_columns_are_standardised_by_the_rows() -> None:
    rows, c = normal(200, 2), 1.7e9 + 10 * normal(200, 1).float().double()
    flow = realnvp.vector_flow(2, context=1, width=8)
    realnvp.fit(flow, rows, context=c, max_steps=2)
    numbers = flow.embed_context(c, 200)
    assert numbers is not None
    assert numbers.mean().abs() < 0.1
    assert (numbers.std() - 1).abs() < 0.1


def test_fit_learns_the_condition() -> None:
    """y = 3 c + noise, and of pictures the level of the class."""
    random = np.random.default_rng(0)
    c = torch.from_numpy(random.normal(size=(500, 1)))
    y = 3 * c + 0.1 * torch.from_numpy(random.normal(size=(500, 1)))
    flow = realnvp.vector_flow(1, context=1, width=16)
    realnvp.fit(flow, y, context=c, max_steps=300, noise=0.0)
    with torch.no_grad():
        assert flow.log_prob(y, context=c).mean() > 0.7  # .88 is the truth, -2.5 without c

    flow, labels = faces(), torch.arange(3).repeat(20)
    x = 60.0 * labels[:, None, None, None] + 60 * pixels(60, 1, 8, 8, levels=1).float()
    realnvp.fit(
        flow, x, context=[NAMES[i] for i in labels], max_steps=150, ema_decay=0.9, val_fraction=0
    )
    assert isinstance(flow.condition, Classes)
    assert torch.allclose(flow.condition.log_priors.exp(), torch.full((3,), 1 / 3), atol=0.05)
    with torch.no_grad():
        assert (flow.class_log_probs(x).argmax(1) == labels).float().mean() > 0.9


def test_a_distribution_given_one_condition_or_several() -> None:
    flow, x, c = conditional("vector")
    one = realnvp.as_distribution(flow, context=c[0])
    assert (one.batch_shape, one.event_shape) == ((), (3,))
    assert torch.allclose(one.log_prob(x), flow.log_prob(x, context=c[0]))
    each = realnvp.as_distribution(flow, context=c)
    assert (each.batch_shape, each.event_shape) == ((5,), (3,))
    assert torch.allclose(each.log_prob(x), flow.log_prob(x, context=c))
    samples = each.expand((4, 5)).rsample((2,))
    assert samples.shape == (2, 4, 5, 3)
    expected = flow.log_prob(samples[1, 2], context=c)
    assert torch.allclose(each.log_prob(samples)[1, 2], expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "given: is missing; .*: the classes are frown, neutral, smile"),
        ("smiel", "given: there is no class 'smiel' .*smile.*"),
        (3, "given: there is no class of index 3"),
        ([0, 1], r"given: expected a class for all, or 5 classes, got shape \(2,\)"),
        (1.5, "given: classes are names or integers"),
        ([0, [1]], "given: is no array of numbers"),
    ],
)
def test_a_class_that_makes_no_sense(context: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        conditional("modern")[0].log_prob(pixels(5, 1, 8, 8).float(), context=context)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "given: is missing; .*: c is 2 columns"),
        (torch.full((5, 2), torch.nan), "given: row 0, column 0: must be finite, got nan"),
        (torch.zeros(4, 2), r"given: expected \(5, 2\) numbers, .*got shape \(4, 2\)"),
        ("smile", "given: must be numbers"),
    ],
)
def test_columns_that_make_no_sense(context: Any, words: str) -> None:
    flow, x, _ = conditional("vector")
    with pytest.raises(ValueError, match=words):
        flow.log_prob(x, context=context)


def test_what_only_conditional_flows_have() -> None:
    plain = realnvp.vector_flow(3).eval()
    with pytest.raises(ValueError, match="given: this flow is not conditional"):
        plain.sample(2, context=1)
    for flow in (plain, conditional("vector")[0]):
        with pytest.raises(ValueError, match="not given classes"):
            flow.mixture_log_prob(torch.zeros(1, 3))


@pytest.mark.parametrize("architecture", ["paper", "modern"])
def test_guidance(architecture: str) -> None:
    """Of weight 0 it is the flow; else a bijection still, of another density that is not told."""
    flow, x, c = conditional(architecture)
    with torch.no_grad():
        same = realnvp.guided(flow, 0.0).log_prob(x, context=c)
        assert torch.equal(same, flow.log_prob(x, context=c))
    guided = realnvp.guided(flow.double(), 1.5)
    with torch.no_grad():
        z = guided.encode(x.double(), context=c)
        assert (guided.decode(z, context=c) - x).abs().max() < 1e-6
        coupling, over = (
            next(m for m in each.modules() if isinstance(m, AffineCoupling))
            for each in (flow, guided)
        )
        h, numbers = normal(*coupling_input(architecture)), torch.eye(3).double()[c]
        said, without = coupling.net(h, mask := h > 0, numbers), coupling.net(h, mask, 0 * numbers)
        assert torch.allclose(over.net(h, mask, numbers), 2.5 * said - 1.5 * without)
    with pytest.raises(ValueError, match=r"realnvp.guided, with another density: report"):
        realnvp.bits_per_dim(guided, x.to(torch.uint8), context=c)
    for weight, other in ((-1.0, flow), (1.0, realnvp.vector_flow(2))):
        with pytest.raises(ValueError, match="guidance: "):
            realnvp.guided(other, weight)


def coupling_input(architecture: str) -> tuple[int, ...]:
    """The shape of the first coupling's x of images of 8x8."""
    return (5, 1, 8, 8) if architecture == "paper" else (5, 4, 4, 4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_flow_of_one_condition(architecture: str, tmp_path: Path) -> None:
    flow, x, c = conditional(architecture)
    fixed = flow.condition_on(c[0])
    with torch.no_grad():
        assert torch.equal(fixed.log_prob(x), flow.log_prob(x, context=c[0]))
        assert torch.equal(fixed.pixel_log_prob(x), flow.pixel_log_prob(x, context=c[0]))
    assert torch.equal(fixed.sample(2, seed=4), flow.sample(2, context=c[0], seed=4))
    with pytest.raises(ValueError, match=r"flow.given: save the flow that it was made from"):
        realnvp.save_flow(fixed, tmp_path / "flow")
    with pytest.raises(ValueError, match="not conditional"):
        fixed.log_prob(x, context=c)
