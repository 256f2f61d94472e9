"""Any configuration either trains three steps or is refused with a line that names one of its
fields.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from realnvp.config import Config, DataConfig, ModelConfig, TrainConfig, flat
from realnvp.training.loop import train

NAN, INF = float("nan"), float("inf")
# What makes sense, and what may not.
FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "name": (["images"], ["digits", "imges", "", 3]),
    "seed": ([0, 7, 2**63 - 1], [-1, 2**63, 1.5]),
    "data.set": (["images"], ["digits", "celeba", "/etc", None]),
    "data.shape": ([None], [(1, 8, 8), (3, 8, 8), (0, 8, 8), (8, 8), (10**30, 8, 8)]),
    "data.levels": ([256], [17, 2, 1, 257, -1]),
    "data.flip": ([False, True], ["yes", 1]),
    "data.turn": ([False, True], ["yes", 1]),
    "data.recolour": ([False, True], ["yes", 1]),
    "data.brighten": ([0, 3, 10**30], [-1, 1.5]),
    "data.columns": ([None], [("a",), ("a", "a"), (3,)]),
    "data.drop": ([None], [("a",), ("x1", "x1"), ()]),
    "data.noise": ([0.0], [0.1, 1.0, -1.0, NAN, 1e30]),
    "data.val_fraction": ([0.1, 0.3], [0.0, 0.5, -1.0, NAN, INF, 1e-9]),
    "model.architecture": (["paper", "modern"], ["vector", "resnet", None]),
    "model.coupling": (["affine", "additive"], ["linear", None]),
    "data.background": ([None, "white", "#00ff7f"], ["pink", "#12", 3]),
    "data.color_mode": ([None, "grey", "rgb"], ["cmyk", 3]),
    "data.bit_depth": ([None, 8], [7, 16, "8"]),
    "data.crop": ([None, 4], [3, 2, 0, -1, 10**30]),
    "data.resize": ([None], [4, 0, -1, 10**30]),
    "data.classes": ([False], [True, 1]),
    "data.class_names": ([None], [("a", "b"), ("a", "a"), (3,)]),
    "data.context_columns": ([None], [("a",), ("x1",), ("a", "a"), (3,)]),
    "data.context_values": ([None], [("null",), ("0.0",), ("{",), (3,)]),
    "data.ordered": ([None], [("a",), ("a", "a"), (3,)]),
    "data.missing": (["refuse"], ["mark", "drop", None]),
    "model.calibrated": ([False], [True, 1]),
    "model.context_dim": ([0], [2, -1, 10**30]),
    "model.given_every": ([1, 2, 5], [0, -1, 2.5]),
    "model.num_scales": ([None, 1, 2], [3, 5, 16, 17, 0, -1]),
    "model.width": ([1, 2, 3], [0, 4096, 5000, 2.5, 10**30]),
    "model.growth": ([1.0, 1.5, 2.0], [0.0, -1.0, 1e30, NAN]),
    "model.coupling_decay": ([1.0, 0.5], [0.0, -1.0, NAN, INF, 1.5]),
    "model.num_couplings": ([1, 2, 3], [0, 1001, 10**30]),
    "model.sine_std": ([0.0, 3.0], [-1.0, NAN, INF, 1e30]),
    "model.dequantization": (["uniform", "variational"], ["oblique", "gaussian", None]),
    "model.batch_norm": ([False, True], ["yes"]),
    "model.num_blocks": ([0, 1], [-1, 1000, 1001, 10**30]),
    "model.momentum": ([0.0, 0.9], [1.0, -0.1, NAN, 1 - 1e-12]),
    "model.alpha": ([0.05, 1e-6], [0.0, 0.5, 0.49999, NAN]),
    "train.batch_size": ([2, 3, 8], [0, 1, 30, 1000, 10**30]),
    "train.lr": ([1e-3], [1e3, 1e30, 0.0, NAN, INF]),
    "train.max_minutes": ([None, 60.0], [0.0, NAN, INF]),
    "train.muon_weight_decay": ([0.0, 0.1], [-1.0, NAN, INF, 1e9]),
    "train.muon_lr": ([None, 0.01], [0.0, 1e30, NAN]),
    "train.warmup": ([0, 2, 10**30], [-1]),
    "train.decay": ([0.0, 0.5, 1.0], [1.1, NAN]),
    "train.ema_decay": ([0.0, 0.9], [1.0, NAN]),
    "train.clip_factor": ([None, 2.0, INF], [1.0, NAN]),
    "train.skip_factor": ([None, 5.0, INF], [1.0, NAN]),
    "train.gradient_checkpointing": ([False, True], [1]),
    "train.grad_clip": ([100.0, INF], [0.0, 1e-30, NAN]),
    "train.l2": ([5e-5, 0.0], [-1.0, INF, NAN, 1e30]),
    "train.precision": (["float32", "float64", "bfloat16"], ["int8", "float16"]),
    "train.eval_images": ([1, 9], [0, 10**30]),
    "train.patience": ([0, 1], [-1, 10**30]),
    "train.tracker": (["none"], ["os", ""]),
    "train.log_every": ([1, 10**30], [0]),
    "train.save_every": ([1, 3, 10**30], [0]),
}


OF_TABLES = {
    "name": "table",
    "data.set": "table",
    "data.levels": None,
    "data.flip": False,
    "data.turn": False,
    "data.recolour": False,
    "data.brighten": 0,
    "data.background": None,
    "data.color_mode": None,
    "data.bit_depth": None,
    "data.crop": None,
    "model.architecture": "vector",
    "model.dequantization": "uniform",
}
STEPS = {"max_steps": 3, "moment_batches": 1, "eval_every": 3, "sample_every": 3}


@st.composite
def configurations(draw: st.DrawFn) -> tuple[Config, bool]:
    """A configuration, for a table if its data set is one, and whether every field makes sense; at
    most three may not.
    """
    odd = draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=3))
    chosen = {name: draw(st.sampled_from(FIELDS[name][name in odd])) for name in FIELDS}
    if draw(st.booleans()):
        chosen |= {name: value for name, value in OF_TABLES.items() if name not in odd}
    if chosen["model.architecture"] == "paper" and "train.muon_lr" not in odd:
        chosen["train.muon_lr"] = None
    if chosen["model.architecture"] == "paper" and "model.dequantization" not in odd:
        chosen["model.dequantization"] = "uniform"
    if chosen["train.muon_lr"] is None and "train.muon_weight_decay" not in odd:
        chosen["train.muon_weight_decay"] = 0.0
    parts: dict[str, dict[str, Any]] = {"": {}, "data": {}, "model": {}, "train": {}}
    for name, value in chosen.items():
        part, _, field = name.rpartition(".")
        parts[part][field] = value
    data, model = DataConfig(**parts["data"]), ModelConfig(**parts["model"])
    return Config(
        **parts[""], data=data, model=model, train=TrainConfig(**parts["train"], **STEPS)
    ), not odd


def test_every_field_is_drawn() -> None:
    fixed = {f"train.{name}" for name in STEPS} | {"train.timeout", "data.source"}
    assert flat(Config()).keys() == FIELDS.keys() | fixed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With images.npy and table.npy."""
    folder, random = tmp_path_factory.mktemp("fuzz"), np.random.default_rng(0)
    np.save(folder / "images.npy", random.integers(0, 17, (30, 4, 4), dtype=np.uint8))
    np.save(folder / "table.npy", random.normal(size=(30, 3)))
    return folder


@pytest.mark.slow
@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(configurations())
def test_any_configuration(folder: Path, drawn: tuple[Config, bool]) -> None:
    config, sensible = drawn
    run_dir, source = (
        folder / "run",
        folder / ("table.npy" if config.data.set == "table" else "images.npy"),
    )
    shutil.rmtree(run_dir, ignore_errors=True)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=str(source)))
    refusal = ""
    try:
        assert train(config, run_dir, device="cpu").step == 3
    except ValueError as error:
        refusal = str(error)
    finally:
        for shared in (AcceleratorState, GradientState, PartialState):
            shared._reset_state()
    event("refused" if refusal else "trained")
    assert not (refusal and sensible), refusal
    if refusal:
        assert any(name in refusal for name in flat(config)), refusal
        assert not run_dir.exists()
