"""Which device is taken, how exactly it computes, and how often a training waits for it."""

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import realnvp
import realnvp.training.batches
import realnvp.training.loop
from realnvp.anomaly import AnomalyDetector
from realnvp.bijections import BatchNorm
from realnvp.cli.main import run as command
from realnvp.codec import compress, decompress
from realnvp.config import PRESETS, Config
from realnvp.device import full_precision, pick_device
from realnvp.flows.flow import Flow
from realnvp.sklearn import RealNVPDensity, RealNVPRegressor
from realnvp.training.batches import Batches
from realnvp.training.loop import train
from realnvp.training.run import Run, open_run
from realnvp.training.step import train_step
from realnvp.training.validation import validate


def with_train(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


# Each way to allow TF32 or bfloat16 that torch has, or has had.
ALLOWED = [
    "pass",
    "torch.set_float32_matmul_precision('medium')",
    "torch.set_float32_matmul_precision('high')",
    "backends.cuda.matmul.allow_tf32 = True",
    "backends.cudnn.allow_tf32 = False",
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

def legacy(look):
    try:
        return look()
    except RuntimeError:  # a mix of both interfaces, says torch
        return "mixed"

def settings():
    backs = {"generic": ["all"], "cuda": ["all", "matmul", "conv", "rnn"], "mkldnn": ["all", "matmul", "conv", "rnn"]}
    new = [torch._C._get_fp32_precision_getter(name, op) for name, ops in backs.items() for op in ops]
    looks = [torch.get_float32_matmul_precision, lambda: backends.cuda.matmul.allow_tf32, lambda: backends.cudnn.allow_tf32]
    return new, [legacy(look) for look in looks]

def products():
    of_cuda = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    return {each.fp32_precision for each in [*of_cuda, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]}

def later():
    '''What the user's next words come to, which tells a value that was set from one that was taken over.'''
    for value in ("ieee", "tf32", "none"):
        backends.fp32_precision = value
        yield settings()
    backends.cudnn.fp32_precision = "ieee"
    yield settings()

for words in sys.argv[1:]:
    seen = []
    for ours in (False, True):
        reader, writer = os.pipe()
        if not os.fork():
            exec(words)
            before = settings()
            if ours:
                with full_precision():
                    assert products() == {"ieee"}, (words, products())
                    with full_precision():
                        pass
                    assert products() == {"ieee"}, (words, products())
            assert settings() == before, (words, before, settings())
            os.write(writer, repr([before, *later()]).encode())
            os._exit(0)
        os.close(writer)
        os.wait()
        seen.append(os.fdopen(reader).read())
    assert seen[0] and seen[0] == seen[1], (words, seen)
print("all", len(sys.argv) - 1)
"""


@pytest.mark.skipif(
    not hasattr(os, "fork"),
    reason="each case needs a process of its own, and importing torch takes long",
)
def test_full_precision_whatever_the_user_has_set() -> None:
    """Within it all products are; afterwards torch is to the last setting as if it had not been
    there.
    """
    ran = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, *ALLOWED], capture_output=True, text=True, timeout=600
    )
    assert ran.stdout.split() == ["all", str(len(ALLOWED))], ran.stderr


def test_full_precision_is_left_by_an_error_too() -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    with pytest.raises(ZeroDivisionError), full_precision():
        raise ZeroDivisionError
    assert torch.backends.cudnn.conv.fp32_precision == before == "tf32"


def test_all_of_a_training_is_in_full_precision_and_takes_the_same_algorithms(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """precision float32 is no TF32, evaluations least of all, and cuDNN sums in no order of
    chance; after it all is as before.
    """
    backends, seen, log_prob = torch.backends, set(), Flow.log_prob

    def settings() -> tuple[object, ...]:
        cudnn = backends.cudnn
        return (
            backends.cuda.matmul.fp32_precision,
            cudnn.conv.fp32_precision,
            cudnn.deterministic,
            cudnn.benchmark,
        )

    def log_prob_seen(flow: Flow, x: Tensor) -> Tensor:
        seen.add((flow.training, *settings()))
        return log_prob(flow, x)

    monkeypatch.setattr(Flow, "log_prob", log_prob_seen)
    monkeypatch.setattr(Flow, "forward", log_prob_seen)
    backends.cuda.matmul.fp32_precision, backends.cudnn.benchmark = "tf32", True
    try:
        before = settings()
        train(
            with_train(tiny, max_steps=1, eval_every=1, tracker="none"),
            tmp_path / "run",
            device="cpu",
        )
        assert seen == {(True, "ieee", "ieee", True, False), (False, "ieee", "ieee", True, False)}
        assert settings() == before == ("tf32", "tf32", False, True)
    finally:
        backends.cuda.matmul.fp32_precision, backends.cudnn.benchmark = "none", False


def test_on_a_mac_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has run this on mps, which lacks float64: it must be named."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("auto").type == "cpu"
    assert pick_device("mps").type == "mps"
    with pytest.raises(ValueError, match=r"^device: cuda is not there; available: mps, cpu"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto").type == "cuda"


def test_float64_on_a_mac_is_refused(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"^train\.precision: mps has no float64$"):
        train(with_train(tiny, precision="float64"), tmp_path / "run", device="mps")
    assert not (tmp_path / "run").exists()


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


def test_more_processes_than_gpus(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {
        "WORLD_SIZE": "3",
        "LOCAL_WORLD_SIZE": "3",
        "LOCAL_RANK": "0",
        "RANK": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match=r"^--nproc-per-node: 3 processes, but this machine has 2 GPUs; one each$"
    ):
        train(tiny, tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported ..."
        ),
    ],
)
def test_a_full_gpu_is_one_line(
    error: Exception,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def log_prob(flow: Flow, x: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(Flow, "log_prob", log_prob)
    assert command(["evaluate", str(run_dir), "--device", "cpu"]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1] == "realnvp: error: not enough GPU memory for that"
    )


def test_a_budget_in_minutes_with_a_line_after_each_step(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step's time is known in the second: until then nobody knows how many steps there
    will be.
    """
    ticks = iter(range(10_000))
    monkeypatch.setattr(realnvp.training.loop, "clock", lambda: next(ticks))  # a second each step
    config = with_train(
        tiny, max_steps=None, max_minutes=3 / 60, log_every=1, eval_every=100, tracker="none"
    )
    assert train(config, tmp_path / "run", device="cpu").step == 4


class Waits(TorchDispatchMode):
    """Counts what waits for a device, or brings a number to it: a CPU does neither, but is asked
    in the same words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.looks = self.constants = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.looks += func.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.equal,
        )
        self.constants += func.overloadpacket == torch.ops.aten.lift_fresh
        return func(*args, **(kwargs or {}))


def with_waits(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> tuple[int, int, int]:
    """How often call fetches from the device, looks at a single number, and brings a constant to
    the device.
    """
    fetches, cpu, here = itertools.count(), Tensor.cpu, threading.get_ident()

    def fetched(tensor: Tensor) -> Tensor:
        if threading.get_ident() == here:  # another thread reads batches ahead, as fast as it can
            next(fetches)
        return cpu(tensor)

    with monkeypatch.context() as patch, Waits() as seen:
        patch.setattr(Tensor, "cpu", fetched)
        call()
    return next(fetches), seen.looks, seen.constants


@pytest.fixture(params=["digits", "digits-modern", "table"])
def begun(request: pytest.FixtureRequest, tiny: Config, tmp_path: Path) -> Iterator[Run]:
    """A training after one step, in which optimisers make their state."""
    config = PRESETS[request.param]
    if request.param == "table":
        np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(300, 3)))
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, source=str(tmp_path / "rows.npy"))
        )
    model = dataclasses.replace(config.model, width=4, num_blocks=1, num_couplings=2)
    config = with_train(
        dataclasses.replace(config, model=model),
        batch_size=8,
        eval_images=150,
        moment_batches=3,
        tracker="none",
    )
    with open_run(config, tmp_path / "run", device="cpu") as run:
        train_step(run, run.batches.at(0))
        yield run


def test_a_step_waits_for_its_device_once(begun: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, norm, time and signal are fetched together; nothing is brought to the device but the
    batch.
    """
    x = begun.batches.at(1)
    fetches, looks, constants = with_waits(monkeypatch, lambda: train_step(begun, x))
    assert (fetches, looks) == (1, 0)
    norms = sum(isinstance(module, BatchNorm) for module in begun.flow.modules())
    assert constants <= norms  # each of which counts its batch


def test_an_evaluation_waits_for_its_device_at_its_end(
    begun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after each of its batches, of which there are three."""
    assert with_waits(monkeypatch, lambda: validate(begun))[0] <= 2


def test_batches_are_pinned_by_the_thread_that_reads_ahead(
    tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def pin_memory(tensor: Tensor) -> Tensor:
        threads.append(threading.current_thread().name)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: bool(threads))
    monkeypatch.setattr(realnvp.training.batches, "moved", lambda tensor, device: tensor)
    batches = Batches(np.zeros((64, 8, 8, 1), np.uint8), tiny, device=torch.device("cuda"))
    batches.at(0)
    threads.clear()
    batches._ahead[1].result()
    batches.at(1)
    batches._ahead[2].result()
    assert set(threads) == {"batches_0"}
