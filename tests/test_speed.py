"""What was made fast computes what the slow formula computes."""

import copy
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from flows import image_flow, moved, normal, pixels
from torch import Tensor

import realnvp
from realnvp.bijections import AffineCoupling, Bijection
from realnvp.config import Config
from realnvp.evaluation.evaluate import evaluate
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, StandardNormal, batch_that_fits
from realnvp.io.pretrained import save_flow
from realnvp.moments import EPS, averaging, batch_moments
from realnvp.nets.layers import Normalize, WeightNormConv
from realnvp.random import Purpose, generator, uniform
from realnvp.training.batches import Batches
from realnvp.training.checkpointing import recompute


def formula(norm: Normalize, h: Tensor) -> Tensor:
    """Eq 15-16 in training, by autograd."""
    mean, var = batch_moments(h)
    rho = norm.moments.momentum
    mean, var = rho * norm.moments.mean + (1 - rho) * mean, rho * norm.moments.var + (1 - rho) * var
    out = (h - mean[:, None, None]) / (var[:, None, None] + EPS).sqrt() + norm.beta[:, None, None]
    return out.relu() if norm.relu else out


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("relu", [True, False])
def test_normalise_and_its_gradient_are_the_formula(momentum: float, relu: bool) -> None:
    norm = Normalize(3, momentum=momentum, relu=relu).double().train()
    norm.moments.mean, norm.moments.var = normal(3), normal(3).square() + 0.5
    norm.beta.data = normal(3)
    h, direction = normal(4, 3, 5, 2) * 2 + 1, normal(4, 3, 5, 2)
    results = []
    for function in (
        partial(formula, norm),
        norm,
    ):  # the formula first: the module moves its moments
        h = h.detach().requires_grad_()
        out = function(h)
        results.append([out, *torch.autograd.grad((out * direction).sum(), [h, norm.beta])])
    for expected, found in zip(*results, strict=True):
        assert (expected - found).abs().max() < 1e-12


def test_normalise_in_bfloat16_keeps_its_statistics_in_float32() -> None:
    h = (normal(8, 3, 16, 16) * 3 + 5).bfloat16()
    exact, low = Normalize(3).double().train(), Normalize(3).train()
    expected, found = exact(h.double()), low(h)
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() < 2e-2
    assert (low.moments.mean - exact.moments.mean).abs().max() < 1e-6
    broken = h.clone()
    broken[0, 1, 0, 0] = torch.nan
    broken.requires_grad_()
    Normalize(3).train()(broken).float().sum().backward()
    assert not broken.grad.isfinite().all()  # so that the step is skipped


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_convolution_added_in_one_pass_is_a_convolution_and_a_sum(
    in_place: bool, kernel: int, dtype: torch.dtype
) -> None:
    conv = WeightNormConv(4, 6, kernel, gain=True).to(dtype).train()
    h, total, direction = (normal(2, channels, 5, 5).to(dtype) for channels in (4, 6, 6))
    results = []
    for fused in (False, True):
        h, total = h.detach().requires_grad_(), total.detach().requires_grad_()
        before = total * 1
        out = conv.add_to(before, h, in_place=in_place) if fused else conv(h) + before
        assert (fused and in_place) or torch.equal(before, total)
        results.append(
            [out, *torch.autograd.grad((out * direction).sum(), [h, total, *conv.parameters()])]
        )
    for expected, found in zip(*results, strict=True):
        assert (expected - found).abs().max() < (1e-5 if dtype == torch.float32 else 1e-12)


FOLDED: dict[str, Callable[[], tuple[Bijection, Tensor]]] = {
    "3 scales": lambda: (image_flow(3, 8, 8, 3), pixels(4, 3, 8, 8)),
    "momentum": lambda: (image_flow(1, 8, 4, 2, momentum=0.9), pixels(4, 1, 8, 4)),
    "nice": lambda: (image_flow(3, 4, 4, 2, coupling="additive"), pixels(4, 3, 4, 4)),
    "modern": lambda: (image_flow(1, 8, 4, 2, architecture="modern"), pixels(4, 1, 8, 4)),
    "modern, two blocks": lambda: (
        image_flow(1, 4, 4, 1, architecture="modern", num_blocks=2),
        pixels(4, 1, 4, 4),
    ),
}


@pytest.fixture(params=FOLDED)
def trained(request: pytest.FixtureRequest) -> tuple[Flow, Tensor]:
    bijection, x = FOLDED[request.param]()
    return Flow(moved(bijection, x), StandardNormal()).eval(), x


def test_folded_networks_compute_the_same(trained: tuple[Flow, Tensor]) -> None:
    flow, x = trained
    before = copy.deepcopy(flow.state_dict())
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-2)):
        folded = realnvp.fast(flow, dtype=dtype)
        assert (folded.log_prob(x) - flow.log_prob(x)).abs().max() < bound
        z = flow.encode(x)
        assert (folded.decode(z) - flow.decode(z)).abs().max() < bound
    assert all(torch.equal(tensor, flow.state_dict()[name]) for name, tensor in before.items())
    assert not flow.training
    assert flow.exact


def test_a_flow_without_blocks_folds() -> None:
    config = Config(
        data=realnvp.ImageData(shape=(1, 4, 4)),
        model=realnvp.ModelConfig(num_scales=1, width=4, num_blocks=0),
    )
    flow = realnvp.build(config).double().eval()
    x = pixels(2, 1, 4, 4)
    assert (
        realnvp.fast(flow, dtype=torch.float64).log_prob(x) - flow.log_prob(x)
    ).abs().max() < 1e-9


def test_fast_is_off_by_little_and_keeps_the_state_in_float64(run_dir: Path) -> None:
    """bfloat16 inside the networks only: a few nats of thousands, the same images on top."""
    flow = realnvp.load_flow(run_dir)
    quick = realnvp.fast(flow, dtype=torch.bfloat16)
    seen: set[torch.dtype] = set()
    for module in quick.modules():
        if isinstance(module, Bijection):
            module.register_forward_hook(
                lambda layer, inputs, outputs: seen.update(tensor.dtype for tensor in outputs)
            )
    images = torch.randint(
        0, 17, (64, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    error = log_probs(quick, images) - log_probs(flow, images)
    assert seen == {torch.float64}
    assert 0 < error.abs().max() < 1
    assert torch.equal(log_probs(quick, images), log_probs(quick, images))


def test_numbers_of_a_fast_flow_are_not_reported(run_dir: Path, tmp_path: Path) -> None:
    quick = realnvp.fast(realnvp.load_flow(run_dir))
    for report in (
        lambda: realnvp.bits_per_dim(quick, torch.zeros(1, 1, 8, 8, dtype=torch.uint8)),
        lambda: evaluate(quick, run_dir),
        lambda: save_flow(quick, tmp_path / "flow"),
    ):
        with pytest.raises(ValueError, match=r"realnvp\.fast"):
            report()
    assert not (tmp_path / "flow").exists()


def steps(flow: Flow, x: Tensor) -> dict[str, Tensor]:
    """Weights, moments and gradients after three steps of training."""
    optimizer = torch.optim.Adam(flow.train().parameters(), lr=1e-2, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()
    return flow.state_dict() | {
        f"{name}.grad": parameter.grad for name, parameter in flow.named_parameters()
    }


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_recomputing_trains_the_same_to_the_bit(momentum: float) -> None:
    x = pixels(8, 3, 8, 8)
    make = lambda: Flow(image_flow(3, 8, 8, 2, momentum=momentum).double(), StandardNormal())  # noqa: E731
    expected, found = steps(make(), x), steps(recompute(make()), x)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_copy_recomputes_with_its_own_weights() -> None:
    flow = recompute(Flow(image_flow(1, 8, 8, 2).double(), StandardNormal()).train())
    copied, x = copy.deepcopy(flow), pixels(4, 1, 8, 8)
    before = flow.log_prob(x)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(0.1)
    assert torch.equal(flow.log_prob(x), before)
    assert not torch.equal(copied.log_prob(x), before)


def test_recomputing_remembers_the_moments_of_each_pass() -> None:
    """Two forward passes before the backward pass, and two backward passes."""
    x = pixels(8, 1, 8, 8)
    gradients = []
    for again in (False, True):
        flow = Flow(image_flow(1, 8, 8, 2, momentum=0.9).double(), StandardNormal()).train()
        loss = sum(
            (recompute(flow) if again else flow).log_prob(x * scale).mean() for scale in (1.0, 0.3)
        )
        for retain in (True, False):
            gradients.append(
                torch.autograd.grad(
                    loss, list(flow.parameters()), retain_graph=retain, allow_unused=True
                )
            )
    for several in zip(*gradients, strict=True):
        assert all(torch.equal(several[0], other) for other in several[1:])


def test_a_fast_flow_stays_where_it_is(run_dir: Path) -> None:
    quick = realnvp.fast(realnvp.load_flow(run_dir))
    for change in (
        copy.deepcopy,
        realnvp.fast,
        lambda flow: flow.double(),
        lambda flow: flow.to("meta"),
    ):
        with pytest.raises(ValueError, match=r"realnvp\.fast"):
            change(quick)
    with pytest.raises(ValueError, match="float16"):
        realnvp.fast(realnvp.load_flow(run_dir), dtype=torch.float16)


def test_bfloat16_without_the_instructions_for_it() -> None:
    """oneDNN's fused kernels refuse bfloat16 on older CPUs; then torch's plain convolutions do it."""
    code = (
        "import torch, realnvp\n"
        "from realnvp.config import Config, ImageData, ModelConfig\n"
        "flow = realnvp.build(Config(data=ImageData(shape=(1, 8, 8)), model=ModelConfig(num_scales=2, width=4, num_blocks=1)))\n"
        "x = torch.rand(4, 1, 8, 8) * 256\n"
        "with torch.autocast('cpu', torch.bfloat16): flow.train().log_prob(x).mean().backward()\n"
        "assert next(flow.parameters()).grad.isfinite().all()\n"
        "quick = realnvp.fast(flow, dtype=torch.bfloat16)\n"
        "assert (quick.log_prob(x) - flow.eval().log_prob(x)).abs().max() < 5\n"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-600:]


def test_averaging_under_recomputation_counts_each_batch_once() -> None:
    x = pixels(8, 1, 8, 8)
    flows = [Flow(image_flow(1, 8, 8, 2).double(), StandardNormal()).train() for _ in range(2)]
    recompute(flows[1])
    for flow in flows:
        with averaging(flow), torch.no_grad():
            for scale in (1.0, 0.5):
                flow.log_prob(x * scale)
    first, second = (flow.state_dict() for flow in flows)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_batches_read_ahead_are_the_batches(tiny: Config) -> None:
    images = np.random.default_rng(0).integers(0, 17, (70, 8, 8, 1), dtype=np.uint8)
    config = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, augment=("hflip",)))
    ahead, fresh = (Batches(images, config, device=torch.device("cpu")) for _ in range(2))
    in_order = [ahead.at(step) for step in range(6)]  # three epochs
    for step in (5, 1, 3, 0, 4, 2):
        fresh.at(step, Purpose.MOMENTS)
        assert torch.equal(fresh.at(step), in_order[step])


def test_noise_of_many_indices_is_that_of_each_alone() -> None:
    rows = uniform((3, 5), 7, Purpose.TRAIN, indices=[4, 0, 2**40], round=3)
    for row, index in zip(rows, (4, 0, 2**40), strict=True):
        alone = generator(7, Purpose.TRAIN, index=index, round=3).random((3, 5), dtype=np.float32)
        assert np.array_equal(row.numpy(), alone)


def test_sampling_many_or_large_images_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch_that_fits((3, 32, 32)) == 256
    assert batch_that_fits((3, 640, 640)) == 1
    flow = Flow(moved(*FOLDED["3 scales"]()), StandardNormal())
    whole = flow.sample(5, (3, 8, 8), seed=1)
    monkeypatch.setattr("realnvp.flows.flow.batch_that_fits", lambda shape: 2)
    assert (flow.sample(5, (3, 8, 8), seed=1) - whole).abs().max() < 1e-9


def test_weights_lie_channels_last_also_after_loading(run_dir: Path) -> None:
    for flow in (realnvp.load_flow(run_dir), realnvp.build("digits")):
        convs = [module for module in flow.modules() if isinstance(module, WeightNormConv)]
        assert all(conv.v.is_contiguous(memory_format=torch.channels_last) for conv in convs)
        assert (
            next(m for m in flow.modules() if isinstance(m, AffineCoupling)).bound.dtype
            == torch.float32
        )
