"""Wrong units, types and orders: one line each, with the line of code that mends it."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from told import Out, refused
from torch import Tensor

import realnvp
from realnvp.evaluation.likelihood import bits_per_dim
from realnvp.flows.flow import Flow
from tests.test_extras import without

Case = tuple[Callable[[Flow], Any], str, str]


@pytest.fixture(scope="module")
def flow() -> Flow:
    """A small flow of colour images of 256 levels, in eval mode. Only read it."""
    model = realnvp.ModelConfig("modern", num_scales=1, width=4, num_blocks=0, num_couplings=2)
    config = realnvp.Config(data=realnvp.ImageData(shape=(3, 8, 8)), model=model)
    return realnvp.build(config).eval()


def unit(*shape: int) -> Tensor:
    """Floats in 0..1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


PIXELS = (256 * unit(2, 3, 8, 8)).to(torch.uint8)
REFUSED: dict[str, Case] = {
    "numpy into a flow": (
        lambda f: f.log_prob(np.zeros((2, 3, 8, 8), np.float32)),
        "got ndarray of float32: ",
        "torch.from_numpy(x)",
    ),
    "a list": (lambda f: f.encode([[1.0]]), "got list of no type: ", "torch.tensor(x)"),
    "uint8": (
        lambda f: f.log_prob(PIXELS),
        "got Tensor of torch.uint8: ",
        "realnvp.bits_per_dim(flow, x)",
    ),
    "integers": (lambda f: f.log_prob(PIXELS.long()), "of torch.int64: ", "x.double()"),
    "channels last": (
        lambda f: f.log_prob(256 * unit(2, 8, 8, 3)),
        "expected a batch of shape (B, 3, H, W), got (2, 8, 8, 3); channels last? ",
        "x.movedim(-1, 1)",
    ),
    "an image alone": (
        lambda f: f.encode(256 * unit(3, 8, 8)),
        "got (3, 8, 8); one alone? ",
        "x[None]",
    ),
    "bits/dim of floats": (
        lambda f: bits_per_dim(f, unit(2, 3, 8, 8)),
        "images: expected uint8, got torch.float32; floats in 0..1 become it by ",
        "(255 * images).round().to(torch.uint8)",
    ),
    "bits/dim of numpy's floats": (
        lambda f: bits_per_dim(f, unit(2, 3, 8, 8).numpy()),
        "got float32; ",
        "(255 * images).round().astype(np.uint8)",
    ),
    "bits/dim of 16 bits": (
        lambda f: bits_per_dim(f, np.full((2, 3, 8, 8), 4000, np.uint16)),
        "a pixel is 4000, but the flow knows the levels 0 to 255; 16 bits become it by ",
        "(images >> 8).astype(np.uint8)",
    ),
    "bits/dim of channels last": (
        lambda f: bits_per_dim(f, np.zeros((2, 8, 8, 3), np.uint8)),
        "expected (N, C, H, W) with N > 0 and C = 3, got (2, 8, 8, 3); channels last? ",
        "np.moveaxis(images, -1, 1)",
    ),
    "two types": (
        lambda f: f.log_prob(256 * unit(2, 3, 8, 8).half()),
        "the flow is of torch.float32, the data torch.float16: ",
        "x.to(torch.float32)",
    ),
    "fit of other columns": (
        lambda f: realnvp.fit(realnvp.vector_flow(2), np.zeros((9, 3))),
        "expected a batch of shape (B, 2), got (9, 3)",
        "",
    ),
    "a shape for n": (
        lambda f: f.sample((2,)),
        "n: how many samples, a whole number, got (2,)",
        "",
    ),
    "fit of uint8": (
        lambda f: realnvp.fit(f, PIXELS),
        "x: torch.uint8; ",
        "x + torch.rand(x.shape)",
    ),
    "fit of a name": (
        lambda f: realnvp.fit("digits", np.zeros((9, 2))),  # type: ignore[arg-type]  # the mistake
        "flow: is str; ",
        "realnvp.build",
    ),
    "fit of words": (lambda f: realnvp.fit(f, np.array([["a"]])), "x: is no array of numbers", ""),
    "channels last of a shape": (
        lambda f: realnvp.build(realnvp.Config(data=realnvp.ImageData(shape=(64, 64, 3)))),
        "data.shape: (64, 64, 3) looks like (height, width, channels); channels come first: ",
        "shape=(3, 64, 64)",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_has_the_line_that_mends_it(flow: Flow, kind: str) -> None:
    call, words, line = REFUSED[kind]
    with pytest.raises(ValueError, match=f"{re.escape(words)}.*{re.escape(line)}") as told:
        call(flow)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("method", ["log_prob", "encode", "log_prob_map"])
@pytest.mark.parametrize("sign", [1, -1])
def test_floats_in_0_to_1_are_told_once(flow: Flow, method: str, sign: int) -> None:
    flow._looked = False
    x = unit(2, 3, 8, 8) if sign > 0 else 2 * unit(2, 3, 8, 8) - 1
    with pytest.warns(UserWarning, match="no value is outside") as told:
        [getattr(flow, each)(x) for each in (method, "log_prob")]
    (words,) = [str(each.message) for each in told]
    line = re.search(r"v = (.*)\.to", words)
    assert line is not None
    v = eval(line[1], {"x": x})
    assert (v.min() >= 0) & (v.max() <= 255) & (v.max() > 250)


def test_what_may_be_dark_or_is_known_is_not_told(flow: Flow) -> None:
    """Pixels v + u, images of few levels, rows, and what is computed for `bits_per_dim`."""
    black = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow._looked = False
        bits_per_dim(flow, black)
        assert not flow._looked
        flow.log_prob(256 * unit(2, 3, 8, 8))
        flow._looked = False
        flow.log_prob(-256 * unit(2, 3, 8, 8))
        realnvp.vector_flow(2).eval().log_prob(unit(5, 2))
        flow._looked = False
        torch.func.vmap(lambda x: flow._check_data(x[None]) or x)(unit(2, 3, 8, 8))


def test_fit_takes_numpy_and_warns_of_floats(flow: Flow) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 2))
    first, again = (
        realnvp.vector_flow(2, num_couplings=2, width=8, num_blocks=1) for _ in range(2)
    )
    losses = [realnvp.fit(first, rows, max_steps=3).loss]
    losses += [realnvp.fit(again, torch.from_numpy(rows), max_steps=3).loss]
    assert losses[0] == losses[1]
    assert len(realnvp.fit(first, np.arange(40).reshape(20, 2) ** 2, max_steps=2).loss) == 2
    with pytest.warns(UserWarning, match="no value is outside"):
        realnvp.fit(realnvp.build(flow.config or ""), unit(20, 3, 8, 8), max_steps=1)
    for whole in (np.zeros((5, 3, 8, 8), np.uint8), np.full((5, 3, 8, 8), 7.0)):
        with pytest.raises(ValueError, match=r"^x: .*fit takes v \+ u, .*torch.rand"):
            realnvp.fit(flow, whole)


def test_grey_without_channels_and_numpy_samples() -> None:
    digits = realnvp.load_flow("digits-8")
    with pytest.raises(ValueError, match=re.escape("grey, without channels? x[:, None]")):
        digits.log_prob(unit(4, 8, 8))
    with pytest.raises(ValueError, match=re.escape("images[:, None]")):
        bits_per_dim(digits, np.zeros((4, 8, 8), np.uint8))
    assert torch.equal(realnvp.quantize(np.full((2, 2), 3.7)), torch.full((2, 2), 3).byte())


def test_a_fresh_flow_is_told_how_to_sample() -> None:
    with pytest.raises(RuntimeError, match=re.escape("call flow.eval() first")):
        realnvp.vector_flow(2).sample(3)


def test_arrays_on_disk(capsys: Out, tmp_path: Path) -> None:
    told = {
        "float32": "(255 * x).round().astype(np.uint8), and np.save",
        "int64": "values in 0..255 become it by x.astype(np.uint8), and np.save",
    }
    for dtype, line in told.items():
        np.save(tmp_path / "x.npy", np.zeros((20, 8, 8, 3), dtype))
        assert line in refused(
            capsys, "train", "images", "--data.source", tmp_path / "x.npy", "--dry-run"
        )
    np.save(tmp_path / "x.npy", np.zeros((20, 3, 8, 8), np.uint8))
    argv = ("train", "images", "--data.source", tmp_path / "x.npy", "--dry-run")
    assert "channels first? transpose it: np.moveaxis(x, 1, -1)" in refused(capsys, *argv)


@pytest.mark.slow
def test_a_missing_package_of_export_is_told_in_python(tmp_path: Path) -> None:
    code = """
import realnvp
from realnvp.export import export_onnx
export_onnx(realnvp.vector_flow(2), "x.onnx")
"""
    last = without(["onnxscript"], code).stderr.splitlines()[-1]
    assert last.endswith(
        "export_onnx needs onnxscript: pip install 'realnvp[onnx]' "
        "(in a clone: pip install -e '.[onnx]')"
    )
