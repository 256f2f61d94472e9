"""Fused kernels, folded networks and gradient checkpointing compute the plain formulas."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import realnvp
from realnvp.bijections import Bijection
from realnvp.evaluation.evaluate import evaluate
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, StandardNormal
from realnvp.moments import EPS, averaging, batch_moments
from realnvp.nets.layers import Normalize, WeightNormConv
from realnvp.training.optim import enable_gradient_checkpointing
from tests.flows import image_flow, moved, normal, pixels


def formula(norm: Normalize, h: Tensor) -> Tensor:
    """Eq 15-16 in training, by autograd."""
    mean, var = batch_moments(h)
    rho = norm.moments.momentum
    mean, var = rho * norm.moments.mean + (1 - rho) * mean, rho * norm.moments.var + (1 - rho) * var
    out = (h - mean[:, None, None]) / (var[:, None, None] + EPS).sqrt() + norm.beta[:, None, None]
    return out.relu() if norm.relu else out


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of sums over processes, in one process that acts as one of several."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    sizes: list[int] = []
    all_reduce = dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda x: (sizes.append(x.numel()), all_reduce(x)))
    for module in ("moments", "nets.kernels"):
        monkeypatch.setattr(f"realnvp.{module}.several_processes", lambda: True)
    yield sizes
    dist.destroy_process_group()


class LikeCUDA(TorchDispatchMode):
    """CUDA's demands on batch norm's gradient."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_batch_norm_backward.default:
            assert args[5] is not None, "save_mean should always be defined"
            assert args[6] is not None, "save_invstd should always be defined"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("relu", [True, False])
def test_normalize_and_its_gradient_are_the_formula(
    momentum: float, relu: bool, several: bool, request: pytest.FixtureRequest
) -> None:
    """Several processes add numbers once each way."""
    sums = request.getfixturevalue("sums") if several else []
    norm = Normalize(3, momentum=momentum, relu=relu).double().train()
    norm.moments.mean, norm.moments.var = normal(3), normal(3).square() + 0.5
    norm.beta.data = normal(3)
    h, direction = normal(4, 3, 5, 2) * 2 + 1, normal(4, 3, 5, 2)
    results = []
    for function in (partial(formula, norm), norm):  # the module last: it moves its moments
        sums.clear()
        h = h.detach().requires_grad_()
        with LikeCUDA():
            out = function(h)
            results.append([out, *torch.autograd.grad((out * direction).sum(), [h, norm.beta])])
    assert sums == [7, 6] * several
    for expected, found in zip(*results, strict=True):
        assert (expected - found).abs().max() < 1e-12


def test_normalize_in_bfloat16_keeps_its_statistics_in_float32() -> None:
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
def test_a_fused_sum_is_a_convolution_and_a_sum(
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
        weights = [h, total, *conv.parameters()]
        results.append([out, *torch.autograd.grad((out * direction).sum(), weights)])
    for expected, found in zip(*results, strict=True):
        assert (expected - found).abs().max() < (1e-5 if dtype == torch.float32 else 1e-12)


FLOWS = {
    "3 scales": ((3, 8, 8, 3), {}),
    "momentum": ((1, 8, 4, 2), {"momentum": 0.9}),
    "additive": ((3, 4, 4, 2), {"coupling": "additive"}),
    "no blocks": ((1, 4, 4, 1), {"num_blocks": 0}),
    "modern": ((1, 8, 4, 2), {"architecture": "modern"}),
    "modern, two blocks": ((1, 4, 4, 1), {"architecture": "modern", "num_blocks": 2}),
}


def trained(name: str) -> tuple[Flow, Tensor]:
    size, fields = FLOWS[name]
    x = pixels(4, *size[:3])
    return Flow(moved(image_flow(*size, **fields), x), StandardNormal()).eval(), x


@pytest.mark.parametrize("name", FLOWS)
def test_folded_networks_compute_the_same(name: str) -> None:
    flow, x = trained(name)
    before = copy.deepcopy(flow.state_dict())
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-2)):
        folded = realnvp.fast(flow, dtype=dtype)
        assert (folded.log_prob(x) - flow.log_prob(x)).abs().max() < bound
        z = flow.encode(x)
        assert (folded.decode(z) - flow.decode(z)).abs().max() < bound
    assert all(torch.equal(tensor, flow.state_dict()[name]) for name, tensor in before.items())
    assert flow.exact


def test_fast_is_off_by_little_and_keeps_the_state_in_float64(run_dir: Path) -> None:
    """bfloat16 inside the networks only: a few nats of thousands."""
    flow = realnvp.load_flow(run_dir)
    quick = realnvp.fast(flow, dtype=torch.bfloat16)
    seen: set[torch.dtype] = set()
    for module in quick.modules():
        if isinstance(module, Bijection):
            module.register_forward_hook(
                lambda layer, inputs, outputs: seen.update(tensor.dtype for tensor in outputs)
            )
    images = (17 / 256 * pixels(64, 1, 8, 8)).to(torch.uint8)
    error = log_probs(quick, images) - log_probs(flow, images)
    assert seen == {torch.float64}
    assert 0 < error.abs().max() < 1


def test_a_fast_flow_is_not_reported_or_saved(run_dir: Path, tmp_path: Path) -> None:
    quick = realnvp.fast(realnvp.load_flow(run_dir))
    for wrong in (
        lambda: realnvp.bits_per_dim(quick, torch.zeros(1, 1, 8, 8, dtype=torch.uint8)),
        lambda: evaluate(quick, run_dir),
        lambda: realnvp.save_flow(quick, tmp_path / "flow"),
        lambda: realnvp.fast(quick),
    ):
        with pytest.raises(ValueError, match="fast"):
            wrong()
    assert not list(tmp_path.iterdir())


def test_bfloat16_without_the_instructions_for_it() -> None:
    """oneDNN's fused kernels refuse bfloat16 on older CPUs; torch's plain convolutions do not."""
    code = """
import torch, realnvp
flow = realnvp.build("digits")
x = torch.rand(4, 1, 8, 8) * 17
with torch.autocast("cpu", torch.bfloat16): flow.train().log_prob(x).mean().backward()
assert next(flow.parameters()).grad.isfinite().all()
quick = realnvp.fast(flow, dtype=torch.bfloat16)
assert (quick.log_prob(x) - flow.eval().log_prob(x)).abs().max() < 5
"""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=600)


def make(momentum: float = 0.0) -> Flow:
    flow = Flow(image_flow(1, 8, 8, 2, momentum=momentum).double(), StandardNormal())
    return flow.train()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_checkpointing_trains_the_same_to_the_bit(momentum: float) -> None:
    """Also with two forward passes before the backward passes, and with averaged moments."""
    x, results = pixels(8, 1, 8, 8), []
    for again in (False, True):
        flow = enable_gradient_checkpointing(make(momentum)) if again else make(momentum)
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            loss = sum(-flow.log_prob(x * scale).mean() for scale in (1.0, 0.3))
            loss.backward(retain_graph=True)
            loss.backward()
            optimizer.step()
        with averaging(flow), torch.no_grad():
            flow.log_prob(x)
            flow.log_prob(x * 0.5)
        gradients = {f"{name}.grad": weight.grad for name, weight in flow.named_parameters()}
        results.append(copy.deepcopy(flow.state_dict()) | gradients)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_copy_of_a_checkpointed_flow_has_its_own_weights() -> None:
    flow, x = enable_gradient_checkpointing(make()), pixels(4, 1, 8, 8)
    copied, before = copy.deepcopy(flow), flow.log_prob(x)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(0.1)
    assert torch.equal(flow.log_prob(x), before)
    assert not torch.equal(copied.log_prob(x), before)


def test_weights_lie_channels_last_also_after_loading(run_dir: Path) -> None:
    for flow in (realnvp.load_flow(run_dir), realnvp.build("digits")):
        convs = [module for module in flow.modules() if isinstance(module, WeightNormConv)]
        assert all(conv.v.is_contiguous(memory_format=torch.channels_last) for conv in convs)
