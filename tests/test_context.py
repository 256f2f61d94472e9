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
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.export import Call, export_onnx
from realnvp.flows.context import Classes
from realnvp.nets.convnet import MLP, ConvNet
from realnvp.nets.layers import Embedding
from realnvp.training.optim import enable_gradient_checkpointing
from tests.flows import normal, pixels, shaken

NAMES = ("frown", "neutral", "smile")
ARCHITECTURES = ("paper", "modern", "vector")
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def faces(architecture: Any = "modern", *, classes: bool = True, **model: Any) -> realnvp.Flow:
    """A flow of images, conditional on a class."""
    names = NAMES if classes else None
    data = ImageData(shape=(1, 8, 8), classes=classes, class_names=names)
    sizes = {"num_scales": 2, "width": 8, "num_blocks": 1, "num_couplings": 2}
    return realnvp.build(Config(data=data, model=ModelConfig(architecture, **sizes | model)))


def conditional(architecture: str, **model: Any) -> tuple[realnvp.Flow, Tensor, Tensor]:
    """A flow in eval mode, x, and c of each x; at their start weights would ignore c."""
    if architecture == "vector":
        flow, x, c = realnvp.vector_flow(3, context=2, width=8), normal(5, 3), normal(5, 2).float()
    else:
        flow, x, c = faces(architecture, **model), pixels(5, 1, 8, 8), torch.tensor([2, 0, 1, 1, 0])
    return shaken(flow), x.float(), c


@every_architecture
def test_each_x_has_its_own_condition(architecture: str) -> None:
    flow, x, c = conditional(architecture)
    with torch.no_grad():
        whole = flow.log_prob(x, context=c)
        alone = torch.cat([flow.log_prob(x[i : i + 1], context=c[i : i + 1]) for i in range(5)])
        one_for_all = flow.log_prob(x, context=c[0])
        others = flow.log_prob(x, context=c.flip(0))
    assert torch.allclose(whole, alone)
    assert torch.allclose(one_for_all[0], whole[0])
    assert ((whole - others).abs() > 1e-3).sum() == 4  # the third has the same c in both


@every_architecture
def test_samples_follow_their_condition_and_their_seed(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, x, c = conditional(architecture)
    samples = flow.sample(5, context=c, seed=1)
    z = flow.encode(samples, context=c)
    assert torch.allclose(z, flow.latents(range(5), x.shape[1:], 1).float(), atol=1e-3)
    monkeypatch.setattr("realnvp.flows.flow.batch_that_fits", lambda shape: 2)
    assert torch.allclose(flow.sample(5, context=c, seed=1), samples, atol=1e-4)


@pytest.mark.parametrize("architecture", ["paper", "modern"])
def test_a_fresh_conditional_flow_is_the_unconditional_flow(architecture: str) -> None:
    x = pixels(2, 1, 8, 8).float()
    plain, with_classes = faces(architecture, classes=False).eval(), faces(architecture).eval()
    assert torch.equal(with_classes.log_prob(x, context="smile"), plain.log_prob(x))


def test_networks_of_every_second_coupling_see_the_condition() -> None:
    flow = faces(num_couplings=4, dequantization="learned")
    seeing = [net.embedding is not None for net in flow.modules() if isinstance(net, ConvNet)]
    # The noise's network; a scale's four, and its prior's; the last scale's four.
    assert seeing == [True, *[False, True, False, True], True, *[False, True, False, True]]


def test_the_mixture_and_bayes_rule() -> None:
    flow, x, _ = conditional("modern")
    assert isinstance(flow.condition, Classes)
    flow.condition.count(torch.tensor([0, 1, 1, 2]))
    with torch.no_grad():
        joint = torch.stack([flow.log_prob(x, context=name) for name in NAMES], dim=1)
        joint += torch.tensor([0.25, 0.5, 0.25]).log()
        mixture, posterior = flow.mixture_log_prob(x), flow.class_log_probs(x)
    assert torch.allclose(mixture, joint.logsumexp(1))
    assert torch.allclose(posterior, joint - mixture[:, None], atol=1e-4)
    assert torch.allclose(posterior.exp().sum(1), torch.ones(5))


def test_autocast_does_not_round_the_embedding() -> None:
    embedding, c = Embedding(3, 8), normal(5, 3).float()
    torch.nn.init.normal_(embedding.weight, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        embedded = embedding(c)
    assert torch.equal(embedded[:, :, 0, 0], c @ embedding.weight)


def test_a_network_sees_columns_beside_x() -> None:
    x, c, mask = normal(5, 2).float(), normal(5, 3).float(), torch.tensor(True)
    net, of_five = MLP(2, 8, 4, num_blocks=1, context=3), MLP(5, 8, 4, num_blocks=1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    of_five.load_state_dict(net.state_dict())
    assert torch.allclose(net(x, mask, c), of_five(torch.cat([x, c], 1), mask), rtol=1e-4)


@every_architecture
def test_checkpointed_saved_and_fast(architecture: str, tmp_path: Path) -> None:
    flow, x, c = conditional(architecture)
    realnvp.save_flow(flow, tmp_path / "flow.safetensors")
    with torch.no_grad():
        nats = flow.log_prob(x, context=c)
        loaded = realnvp.load_flow(tmp_path / "flow.safetensors")
        assert torch.equal(loaded.log_prob(x, context=c), nats)
        if architecture != "vector":
            fast = realnvp.fast(flow, dtype=torch.float32).log_prob(x, context=c)
            assert torch.allclose(fast, nats, rtol=1e-4)
    gradients = []
    for each in (flow, enable_gradient_checkpointing(copy.deepcopy(flow))):
        each.train().log_prob(x, context=c).sum().backward()
        gradients.append([p.grad for p in each.parameters() if p.grad is not None])
    assert len(gradients[0]) > 0
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("call", ["decode", "class_log_probs"])
def test_onnx_takes_the_condition(call: Call, tmp_path: Path) -> None:
    flow, x, c = conditional("modern", num_scales=1, num_couplings=1)
    export_onnx(flow, tmp_path / "flow.onnx", call=call)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(tmp_path / "flow.onnx", providers=providers)
    inputs = {"x": x} if call == "class_log_probs" else {"x": x / 256, "context": c}
    assert [each.name for each in session.get_inputs()] == [*inputs]
    for count in (1, 5):
        some = {name: each[:count] for name, each in inputs.items()}
        with torch.no_grad():
            expected = getattr(flow, call)(*some.values()).numpy()
        found = session.run(None, {name: each.numpy() for name, each in some.items()})[0]
        assert np.abs(found - expected).max() < 2e-3


def test_columns_are_standardized_by_the_rows() -> None:
    """Also seconds since 1970, which float32 rounds to minutes."""
    rows, c = normal(200, 2), 1.7e9 + 10 * normal(200, 1)
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
    names = [NAMES[i] for i in labels]
    realnvp.fit(flow, x, context=names, max_steps=150, ema_decay=0.9, val_fraction=0)
    assert isinstance(flow.condition, Classes)
    assert torch.allclose(flow.condition.log_priors.exp(), torch.full((3,), 1 / 3), atol=0.05)
    with torch.no_grad():
        assert (flow.class_log_probs(x).argmax(1) == labels).float().mean() > 0.9


def test_distributions_of_one_condition_and_of_several() -> None:
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


def test_a_wrong_condition() -> None:
    for architecture, wrong in {
        "modern": (None, "smiel", 3, -1, [0, 1], 1.5),
        "vector": (None, torch.zeros(4, 2), torch.zeros(5, 1)),
    }.items():
        flow, x, _ = conditional(architecture)
        for context in wrong:
            with pytest.raises((ValueError, RuntimeError)):
                flow.log_prob(x, context=context)
    with pytest.raises(ValueError, match="class"):
        flow.mixture_log_prob(x)
    with pytest.raises(ValueError, match="context"):
        realnvp.vector_flow(3).eval().sample(2, context=1)


@every_architecture
def test_the_flow_of_one_condition(architecture: str, tmp_path: Path) -> None:
    flow, x, c = conditional(architecture)
    fixed = flow.condition_on(c[0])
    with torch.no_grad():
        assert torch.equal(fixed.log_prob(x), flow.log_prob(x, context=c[0]))
        assert torch.equal(fixed.pixel_log_prob(x), flow.pixel_log_prob(x, context=c[0]))
    assert torch.equal(fixed.sample(2, seed=4), flow.sample(2, context=c[0], seed=4))
    for wrong in (
        lambda: realnvp.save_flow(fixed, tmp_path / "flow"),
        lambda: fixed.log_prob(x, context=c),
    ):
        with pytest.raises(ValueError, match="condition"):
            wrong()
