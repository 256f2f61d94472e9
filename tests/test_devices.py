"""What GPUs and Apple's devices ask for, which no test machine has to have: played on the CPU."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from flows import image_flow, normal, pixels
from test_speed import formula
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import realnvp
from realnvp.bijections import data_dependent_init
from realnvp.flows.flow import Flow, StandardNormal, initialize_from
from realnvp.moments import batch_moments
from realnvp.nets.layers import Normalize
from realnvp.training.batches import spread_of

# What a GPU is waited for with: `.item()`, and numbers of Python's that become tensors,
# `new_tensor`.
WAITS = {"_local_scalar_dense", "is_nonzero", "lift", "lift_fresh", "nonzero", "equal"}
CPU, MPS = torch.device("cpu"), torch.device("mps")


class OnApple(Tensor):
    """A tensor that says that it lies on Apple's device, as do all that are made of it."""


class Apple(TorchFunctionMode):
    """Within it, such a tensor is never float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return MPS if isinstance(args[0], OnApple) else CPU
        if func is Tensor.cpu:
            return args[0].as_subclass(Tensor)
        if func is Tensor.to:
            to = [*args[1:], *kwargs.values()]
            places = [
                part.device if isinstance(part, Tensor) else part
                for part in to
                if isinstance(part, Tensor | torch.device)
            ]
            dtypes = [
                part.dtype if isinstance(part, Tensor) else part
                for part in to
                if isinstance(part, Tensor | torch.dtype)
            ]
            place = places[0] if places else args[0].device
            out = func(args[0].as_subclass(Tensor), dtypes[0] if dtypes else args[0].dtype)
            out = out.as_subclass(OnApple if place == MPS else Tensor)
        elif kwargs.get("device") == MPS:
            out = func(*args, **kwargs | {"device": CPU}).as_subclass(OnApple)
        else:
            out = func(*args, **kwargs)
        if any(
            isinstance(part, OnApple) and part.dtype == torch.float64 for part in tree_leaves(out)
        ):
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return out


def on_apple(flow: Flow) -> Flow:
    """The same flow, there."""
    for module in flow.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(
                module,
                name,
                nn.Parameter(
                    weight.detach().as_subclass(OnApple), requires_grad=weight.requires_grad
                ),
            )
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.as_subclass(OnApple))
    return flow


@pytest.mark.parametrize("kind", ["modern", "table"])
def test_apples_devices_which_lack_float64_compute_the_same(kind: str) -> None:
    def flow() -> Flow:
        if kind == "table":
            return realnvp.vector_flow(3, num_couplings=4, width=8)
        return Flow(image_flow(1, 8, 8, 2, architecture="modern"), StandardNormal())

    x = normal(40, 3).float() * 3 if kind == "table" else pixels(8, 1, 8, 8).float()
    results = []
    for there in (False, True):
        mine, batch = flow().eval(), x
        with Apple():
            if there:
                mine, batch = on_apple(mine), x.as_subclass(OnApple)
            with data_dependent_init(mine), torch.no_grad():
                mine.log_prob(batch)
            nats = mine.log_prob(batch)
            nats.sum().backward()
            weights = [weight for weight in mine.parameters() if weight.grad is not None]
            back = mine.decode(mine.encode(batch))
            initialize_from(mine, batch)
            assert all(
                part.device == (MPS if there else CPU)
                for part in (nats, back, *weights, spread_of(batch))
            )
            results.append(
                [
                    part.detach().cpu()
                    for part in (nats, back, *weights, *(weight.grad for weight in weights))
                ]
            )
    for expected, found in zip(*results, strict=True):
        assert (expected - found).abs().max() <= 1e-4 + 1e-5 * expected.abs().max()


class Kernels(TorchDispatchMode):
    """Counts what torch computes; with CUDA's demands on batch norm's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS or not (func.is_view or name in ("detach", "promote_types")):
            self.calls[name] += 1
        if func is torch.ops.aten.native_batch_norm_backward.default:
            assert args[5] is not None, "save_mean should always be defined"
            assert args[6] is not None, "save_invstd should always be defined"
        return func(*args, **kwargs or {})


@pytest.fixture
def as_of_several(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The paths that several processes take, in one: all sums over processes so far."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    sums: list[int] = []
    all_reduce = dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda x: (sums.append(x.numel()), all_reduce(x)))
    for module in ("tools.moments", "networks.kernels"):
        monkeypatch.setattr(f"realnvp.{module}.several_processes", lambda: True)
    yield sums
    dist.destroy_process_group()


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_several_gpus_train_batch_norm_with_one_sum_each_way(
    momentum: float, as_of_several: list[int]
) -> None:
    norm = Normalize(3, momentum=momentum).double().train()
    norm.moments.mean, norm.moments.var = normal(3), normal(3).square() + 0.5
    h, direction = normal(4, 3, 5, 2) * 2 + 1, normal(4, 3, 5, 2)
    results = []
    for function in (partial(formula, norm), norm):
        as_of_several.clear()
        h = h.detach().requires_grad_()
        with Kernels():
            out = function(h)
            results.append([out, *torch.autograd.grad((out * direction).sum(), [h, norm.beta])])
        assert as_of_several == [7, 6] if function is norm else [7, 7]
    for expected, found in zip(*results, strict=True):
        assert (expected - found).abs().max() < 1e-12


def test_moments_of_unequal_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(9, 3, 2, 2) + 5
    parts = [x[:2], x[2:3], x[3:]]
    rows = [torch.cat([*batch_moments(part), torch.tensor([4.0 * len(part)])]) for part in parts]
    monkeypatch.setattr("realnvp.moments.several_processes", lambda: True)
    monkeypatch.setattr("realnvp.moments.over_processes", lambda mine: torch.stack(rows))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    found = batch_moments(parts[1])
    assert (found[0] - x.mean((0, 2, 3))).abs().max() < 1e-12
    assert (found[1] - x.var((0, 2, 3), correction=0)).abs().max() < 1e-12


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("fields", [{}, {"momentum": 0.9}, {"architecture": "modern"}])
def test_a_step_waits_for_no_copy(
    fields: dict[str, Any], several: bool, request: pytest.FixtureRequest
) -> None:
    if several:
        request.getfixturevalue("as_of_several")
    flow, x = (
        Flow(image_flow(1, 8, 8, 2, **fields), StandardNormal()).train(),
        pixels(8, 1, 8, 8).float(),
    )
    with Kernels() as kernels:
        flow.log_prob(x).mean().backward()
    assert {name: count for name, count in kernels.calls.items() if name in WAITS} == {}


def test_a_batch_norm_launches_few_kernels() -> None:
    """For large models launches decide the time of a step on a GPU: 98 norms in one of CIFAR-10."""
    norm, h = Normalize(3).train(), normal(4, 3, 5, 2).float().requires_grad_()
    with Kernels() as forward:
        out = norm(h)
    with Kernels() as backward:
        out.backward(torch.ones_like(out))
    assert (forward.calls.total(), backward.calls.total()) <= (7, 8), (
        forward.calls,
        backward.calls,
    )


# Building


def weights_of(flow: Flow) -> tuple[float, float]:
    """Two sums over all weights and moments."""
    values = torch.cat([tensor.double().flatten() for tensor in flow.state_dict().values()])
    return values.sum().item(), values.abs().sum().item()


@pytest.mark.parametrize(
    ("make", "sums"),
    [
        (lambda: realnvp.build("digits"), (4971.462537847285, 125901.19900980608)),
        (lambda: realnvp.build("digits-modern"), (17.975416880804573, 3712.324335972295)),
        (lambda: realnvp.vector_flow(5, seed=3), (-25.50736416669679, 10384.608246457326)),
    ],
)
def test_the_weights_of_a_seed_stay(make: Any, sums: tuple[float, float]) -> None:
    assert weights_of(make()) == pytest.approx(sums, rel=1e-6, abs=1e-3)


def test_building_leaves_all_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[str] = []
    for kind in ("cuda", "mps", "xpu"):
        for name in ("manual_seed", "manual_seed_all"):
            if hasattr(getattr(torch, kind), name):
                monkeypatch.setattr(
                    f"torch.{kind}.{name}", lambda seed, kind=kind: seeded.append(kind)
                )
    state = torch.get_rng_state()
    realnvp.build("digits-modern")
    assert seeded == []
    assert torch.equal(state, torch.get_rng_state())


def test_a_flow_is_built_where_tensors_are_by_default() -> None:
    with torch.device("meta"):
        flow = realnvp.vector_flow(2)
    assert {weight.device.type for weight in flow.parameters()} == {"meta"}
