"""torch.export and ONNX against the flow itself."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

import realnvp
from realnvp.cli.main import run
from realnvp.config.presets import PRESETS
from realnvp.data.prepared import find_data
from realnvp.export import Call, export_onnx, export_program
from tests.flows import shaken


def examples(flow: realnvp.Flow, call: Call, count: int) -> Tensor:
    """Digits with noise, or latents."""
    random = torch.Generator().manual_seed(count)
    assert flow.config is not None
    if call == "decode" or flow.config.data.set == "table":
        return torch.randn(count, *flow.config.shape, generator=random)
    digits = find_data(flow.config.data, seed=0).test[:count].transpose(0, 3, 1, 2)
    return torch.from_numpy(digits.copy()) + torch.rand(digits.shape, generator=random)


def made(architecture: str, run_dir: Path) -> realnvp.Flow:
    """A trained flow of the paper's architecture; others small, with weights away from the start."""
    if architecture == "paper":
        return realnvp.load_flow(run_dir)
    if architecture == "vector":
        flow = realnvp.vector_flow(3, width=8, num_couplings=4)
    else:
        config, noise = PRESETS["digits-modern"], {"num_couplings": 2}
        if architecture == "learned noise":
            noise = {"dequantization": "learned", "num_couplings": 1}
        model = replace(config.model, width=8, num_scales=1, **noise)
        flow = realnvp.build(replace(config, model=model))
    return shaken(flow)


@pytest.mark.parametrize(
    ("architecture", "call"),
    [
        ("paper", "encode"),
        ("modern", "decode"),
        ("learned noise", "pixel_log_prob"),
        ("vector", "pixel_log_prob"),
    ],
)
def test_a_program_is_the_flow(run_dir: Path, architecture: str, call: Call) -> None:
    """To the bit, of any number of images; and the flow is left as it was."""
    flow = made(architecture, run_dir).train()
    program = export_program(flow, call=call)
    assert flow.training
    flow.eval()
    for count in (1, 2, 5):
        x = examples(flow, call, count)
        with torch.no_grad():
            assert torch.equal(program.module()(x), getattr(flow, call)(x))
    operations = " ".join(str(node.target) for node in program.graph.nodes)
    assert not re.search("mkldnn|weight_norm|linalg|arange", operations)


def check_onnx(flow: realnvp.Flow, file: Path, call: Call, dtype: torch.dtype) -> None:
    for count in (1, 5):
        x = examples(flow, call, count).to(dtype)
        with torch.no_grad():
            expected = getattr(flow, call)(x)
        assert expected.dtype == dtype
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        [entry], [result] = session.get_inputs(), session.get_outputs()
        assert (entry.name, entry.shape) == ("x", ["batch", *x.shape[1:]])
        assert (result.name, result.shape[0]) == (call, "batch")
        # Nats of some hundreds, and gray levels of 0 to 16: the rest is rounding of float32.
        found = session.run(None, {"x": x.numpy()})[0]
        assert np.abs(found - expected.numpy()).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("call", ["log_prob", "decode"])
def test_onnx_agrees_with_the_flow(run_dir: Path, tmp_path: Path, call: Call) -> None:
    file = tmp_path / f"{call}.onnx"
    assert run(["export", str(run_dir), "--out", str(file), "--call", call]) == 0
    assert [*tmp_path.iterdir()] == [file]
    check_onnx(realnvp.load_flow(run_dir), file, call, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "call", "dtype"),
    [
        ("modern", "decode", torch.float64),
        ("modern", "pixel_log_prob", torch.float64),
        ("learned noise", "log_prob", torch.float32),
        ("vector", "log_prob", torch.float32),
    ],
)
def test_onnx_of_other_architectures(
    run_dir: Path, tmp_path: Path, architecture: str, call: Call, dtype: torch.dtype
) -> None:
    flow = made(architecture, run_dir)
    export_onnx(flow, tmp_path / "x.onnx", call=call, dtype=dtype)
    check_onnx(flow, tmp_path / "x.onnx", call, dtype)


def test_a_program_of_another_size() -> None:
    flow = made("modern", Path())
    x = 17 * torch.rand(3, 1, 4, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(export_program(flow, (1, 4, 12)).module()(x), flow.log_prob(x))


def test_refusals(run_dir: Path, tmp_path: Path) -> None:
    flow = realnvp.load_flow(run_dir)
    with pytest.raises(ValueError, match="fast"):
        export_program(realnvp.fast(flow))
    with pytest.raises(ValueError, match="x: "):
        export_program(flow, (3, 8, 8))
    with pytest.raises(ValueError, match="shape: "):
        export_program(realnvp.Flow(flow.bijection, flow.prior))
    assert run(["export", str(run_dir), "--out", str(tmp_path)]) == 2


def test_a_program_of_one_column_given_others() -> None:
    """Splines, and a last layer that is recalibrated, of any number of rows."""
    flow = realnvp.vector_flow(1, context=2, num_couplings=2, width=8).double()
    program = export_program(flow)
    x, context = torch.randn(5, 1).double(), torch.randn(5, 2).double()
    with torch.no_grad():
        assert program.module()(x, context).equal(flow.eval().log_prob(x, context=context))
