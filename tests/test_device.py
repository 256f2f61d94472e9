"""Devices: full precision, waits for the device, kernels of a step, and where tensors are made."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import realnvp
import realnvp.training.batches
from realnvp.anomaly import AnomalyDetector
from realnvp.codec import compress, decompress
from realnvp.config.fields import Config
from realnvp.config.presets import PRESETS
from realnvp.device import pick_device
from realnvp.flows.flow import Flow
from realnvp.moments import batch_moments
from realnvp.sklearn import RealNVPDensity, RealNVPRegressor
from realnvp.training.loop import train, train_step
from realnvp.training.run import open_run
from tests.flows import normal

# Each way to allow TF32 or bfloat16 that torch has, or has had.
ALLOWED = [
    "pass",
    "torch.set_float32_matmul_precision('medium')",
    "backends.cuda.matmul.allow_tf32 = True",
    "backends.cudnn.allow_tf32 = True",
    "backends.fp32_precision = 'tf32'",
    "backends.fp32_precision = 'bf16'",
    "backends.fp32_precision = 'ieee'",
    "backends.cudnn.fp32_precision = 'tf32'",
    "backends.cuda.matmul.fp32_precision = 'tf32'",
    "backends.cudnn.conv.fp32_precision = 'ieee'",
    "backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "backends.mkldnn.conv.fp32_precision = 'tf32'",
]
IN_A_PROCESS = """
import os, sys, warnings
import torch
from realnvp.device import full_precision
backends = torch.backends
warnings.simplefilter("ignore")

def products():
    one, other = (backends.cuda.matmul, backends.cudnn), (backends.mkldnn.matmul, backends.mkldnn)
    return {each.fp32_precision for each in (one[0], one[1].conv, one[1].rnn, other[0], other[1].conv, other[1].rnn)}

def settings():
    ops = [("generic", "all"), *((name, op) for name in ("cuda", "mkldnn") for op in ("all", "matmul", "conv", "rnn"))]
    return [torch._C._get_fp32_precision_getter(*each) for each in ops]

for statement in sys.argv[1:]:
    if not os.fork():
        exec(statement)
        before = settings()
        with full_precision():
            assert products() == {"ieee"}, (statement, products())
            with full_precision():
                pass
            assert products() == {"ieee"}, (statement, products())
        assert settings() == before, (statement, before, settings())
        os._exit(0)
    assert os.wait()[1] == 0, statement
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each case needs a process of its own")
def test_full_precision_whatever_the_user_has_set() -> None:
    """Inside, every product is full; afterwards torch is as if it had not been there."""
    command = [sys.executable, "-c", IN_A_PROCESS, *ALLOWED]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr


def test_all_of_a_training_is_in_full_precision_and_deterministic(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends, seen, log_prob = torch.backends, set(), Flow.log_prob

    def settings() -> tuple[object, ...]:
        matmul, cudnn = backends.cuda.matmul, backends.cudnn
        full = matmul.fp32_precision, cudnn.conv.fp32_precision
        return (*full, cudnn.deterministic, cudnn.benchmark)

    def observed(flow: Flow, *args: Any, **more: Any) -> Tensor:
        seen.add((flow.training, *settings()))
        return log_prob(flow, *args, **more)

    monkeypatch.setattr(Flow, "log_prob", observed)
    monkeypatch.setattr(Flow, "forward", observed)
    monkeypatch.setattr(backends.cudnn, "benchmark", True)
    backends.cuda.matmul.fp32_precision = "tf32"
    try:
        before = settings()
        one_step = replace(tiny.train, max_steps=1, eval_every=1, tracker="none")
        train(replace(tiny, train=one_step), tmp_path / "run", device="cpu")
        assert seen == {(mode, "ieee", "ieee", True, False) for mode in (True, False)}
        assert settings() == before
    finally:
        backends.cuda.matmul.fp32_precision = "none"


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device"):
        pick_device("nowhere")


def test_what_is_on_the_cpu_stays_there_whatever_the_default_device_is() -> None:
    flow = realnvp.load_flow("digits-8")
    images = np.random.default_rng(0).integers(0, 17, (8, 1, 8, 8)).astype(np.uint8)
    rows = np.random.default_rng(0).standard_normal((40, 2))
    plain = realnvp.bits_per_dim(flow, images), AnomalyDetector(flow).fit(images).p_values(images)
    with torch.device("meta"):  # as torch.set_default_device("cuda"), but that no sum can use it
        assert (decompress(flow, compress(flow, images)) == images).all()
        assert realnvp.bits_per_dim(flow, images).mean == plain[0].mean
        assert (AnomalyDetector(flow).fit(images).p_values(images) == plain[1]).all()
        assert realnvp.quantize(rows).device.type == "cpu"
        regressor = RealNVPRegressor(max_iter=2, width=4).fit(rows[:, :1], rows[:, 1])
        assert np.isfinite(regressor.predict_quantiles(rows[:, :1], [0.1, 0.9])).all()
        assert np.isfinite(RealNVPDensity(max_iter=2, width=4).fit(rows).sample(3)).all()


class Waits(TorchDispatchMode):
    """Counts operations that wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")
        self.count += func.overloadpacket.__name__ in waiting
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("preset", ["digits", "digits-modern", "table"])
def test_a_step_never_waits_for_its_device(preset: str, tmp_path: Path) -> None:
    """But for the loss, norm, time and signal, which are fetched together."""
    config = PRESETS[preset]
    if preset == "table":
        np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(300, 3)))
        data = replace(config.data, source=str(tmp_path / "rows.npy"))
        config = replace(config, data=data)
    model = replace(config.model, width=4, num_blocks=1, num_couplings=2)
    few = replace(config.train, tracker="none", batch_size=8)
    with open_run(replace(config, model=model, train=few), tmp_path / "run", device="cpu") as run:
        train_step(run, run.batches.at(0))  # optimizers make their state
        x = run.batches.at(1)
        with Waits() as waits:
            train_step(run, x)
    assert waits.count == 0


def test_moments_of_unequal_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(9, 3, 2, 2) + 5
    parts = [x[:2], x[2:3], x[3:]]
    rows = [torch.cat([*batch_moments(part), torch.tensor([4.0 * len(part)])]) for part in parts]
    monkeypatch.setattr("realnvp.moments.several_processes", lambda: True)
    monkeypatch.setattr("realnvp.moments.over_processes", lambda mine: torch.stack(rows))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    mean, var = batch_moments(parts[1])
    assert (mean - x.mean((0, 2, 3))).abs().max() < 1e-12
    assert (var - x.var((0, 2, 3), correction=0)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("preset", "sums"),
    [
        ("digits", (4971.462537847285, 125901.19900980608)),
        ("digits-modern", (17.975416880804573, 3712.324335972295)),
        ("table", (-25.50736416669979, 10384.608246457326)),
    ],
)
def test_the_weights_of_a_seed_stay(preset: str, sums: tuple[float, float]) -> None:
    flow = realnvp.vector_flow(5, seed=3) if preset == "table" else realnvp.build(preset)
    values = torch.cat([tensor.double().flatten() for tensor in flow.state_dict().values()])
    found = values.sum().item(), values.abs().sum().item()
    assert found == pytest.approx(sums, rel=1e-6, abs=1e-3)


def test_a_flow_is_built_where_tensors_are_by_default() -> None:
    with torch.device("meta"):
        flow = realnvp.vector_flow(2)
    assert {weight.device.type for weight in flow.parameters()} == {"meta"}
