"""torch.export and ONNX against the flow itself."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

import realnvp
from realnvp.bijections import ActNorm
from realnvp.cli.main import run
from realnvp.data import find_data
from realnvp.export import Call, export_onnx, export_program

CALLS: tuple[Call, ...] = ("log_prob", "encode", "decode")


def given(flow: realnvp.Flow, call: Call, count: int) -> Tensor:
    """Digits with noise, or latents."""
    random = torch.Generator().manual_seed(count)
    assert flow.config is not None
    if call == "decode":
        return torch.randn(count, *flow.config.data.shape, generator=random)
    digits = find_data(flow.config.data, seed=0).parts["test"].read(np.arange(count)).transpose(0, 3, 1, 2)
    return torch.from_numpy(digits.copy()) + torch.rand(digits.shape, generator=random)


def answer_of(file: Path, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [entry], [result] = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.shape[1:]) == ("x", list(x.shape[1:]))
    assert result.name in CALLS
    return session.run(None, {"x": x.numpy()})[0]


@pytest.mark.parametrize("call", CALLS)
def test_a_program_is_the_flow(run_dir: Path, call: Call) -> None:
    """To the bit, of any number of images; and the flow is left as it was."""
    flow = realnvp.load_flow(run_dir).train()
    program = export_program(flow, call=call)
    assert flow.training
    flow.eval()
    for count in (1, 2, 5):
        x = given(flow, call, count)
        with torch.no_grad():
            assert torch.equal(program.module()(x), getattr(flow, call)(x))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("call", ["log_prob", "decode"])
def test_onnx_agrees_with_the_flow(run_dir: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"{call}.onnx"
    assert run(["export", str(run_dir), "--onnx", str(file), "--call", call]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{file}: {call}, ")
    assert captured.err == ""
    flow = realnvp.load_flow(run_dir)
    for count in (1, 5):
        x = given(flow, call, count)
        with torch.no_grad():
            expected = getattr(flow, call)(x)
        # Nats of some hundreds, and grey levels of 0 to 16: the rest is rounding of float32.
        assert np.abs(answer_of(file, x) - expected.numpy()).max() < 2e-3
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_onnx_in_float64_and_of_another_size(run_dir: Path, tmp_path: Path) -> None:
    flow = realnvp.load_flow(run_dir)
    export_onnx(flow, tmp_path / "x.onnx", (1, 4, 12), call="encode", dtype=torch.float64)
    x = 17 * torch.rand(3, 1, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = flow.encode(x)
    assert np.abs(answer_of(tmp_path / "x.onnx", x) - expected.numpy()).max() < 1e-4


def test_onnx_of_vectors(tmp_path: Path) -> None:
    flow = realnvp.vector_flow(3, width=8, num_couplings=4).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, torch.nn.Linear | ActNorm):
                for parameter in module.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    export_onnx(flow, tmp_path / "x.onnx")
    x = torch.randn(4, 3, generator=random)
    with torch.no_grad():
        assert np.abs(answer_of(tmp_path / "x.onnx", x) - flow.log_prob(x).numpy()).max() < 1e-4


def test_what_cannot_be_exported(run_dir: Path, tmp_path: Path) -> None:
    flow = realnvp.load_flow(run_dir)
    for words, call in {
        r"expected a batch of shape \(B, 1, H, W\)": lambda: export_program(flow, (3, 8, 8)),
        "9x8": lambda: export_program(flow, (1, 9, 8)),
        "call: .*'sample'": lambda: export_program(flow, call="sample"),  # type: ignore[arg-type]  # the mistake
        "realnvp.fast": lambda: export_program(realnvp.fast(flow)),
        "float32": lambda: export_program(flow, dtype=torch.float16),
        "shape: ": lambda: export_program(realnvp.Flow(flow.bijection, flow.prior)),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_onnx_without_the_extra(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run(["export", str(run_dir), "--onnx", str(tmp_path / "x.onnx")]) == 2
    assert "pip install 'realnvp[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert run(["export", str(run_dir), "--onnx", str(tmp_path)]) == 2
    assert "--onnx" in capsys.readouterr().err
