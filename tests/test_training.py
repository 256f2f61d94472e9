"""Training: resume to the bit, several processes, evaluations, and it learns."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import realnvp.training.loop
from benchmarks.drift import drift
from realnvp.bijections import Bijection
from realnvp.cli.main import run
from realnvp.config.fields import Config
from realnvp.config.json import read_config, to_json
from realnvp.config.presets import PRESETS
from realnvp.flows.build import build
from realnvp.flows.flow import Flow
from realnvp.io.files import lock_folder
from realnvp.io.pretrained import load_flow, load_model, newest_checkpoint
from realnvp.nets.layers import WeightNormConv
from realnvp.training.batches import Batches
from realnvp.training.loop import seconds_per_step, train
from realnvp.training.run import Run
from realnvp.training.session import TrainingFailed, TrainingStopped
from tests.command_output import in_two_processes

step_of_the_loop = realnvp.training.loop.train_step


def with_train(config: Config, **changes: Any) -> Config:
    return replace(config, train=replace(config.train, **changes))


def with_model(config: Config, **changes: Any) -> Config:
    return replace(config, model=replace(config.model, **changes))


def with_classes(config: Config) -> Config:
    return replace(config, data=replace(config.data, classes=True))


def tensors_of(run_dir: Path) -> dict[str, Tensor]:
    """All that the last checkpoint holds."""
    newest = newest_checkpoint(run_dir)
    assert newest is not None
    return newest[0]


def evaluations_of(run_dir: Path) -> list[dict[str, Any]]:
    """The validation lines of metrics.jsonl without the times."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in line.items() if name != "seconds"}
        for line in lines
        if "validation_standard_error" in line
    ]


def assert_equal_runs(a: Path, b: Path) -> None:
    first, second = tensors_of(a), tensors_of(b)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert evaluations_of(a) == evaluations_of(b)
    for name in ("best.safetensors", "last.safetensors"):
        assert (a / "model" / name).read_bytes() == (b / "model" / name).read_bytes()


def signal_at(patch: pytest.MonkeyPatch, steps: set[int], signum: int) -> None:
    """Send this process a signal in these steps, each once."""

    def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
        if run.state.step in steps:
            steps.remove(run.state.step)
            os.kill(os.getpid(), signum)
        return step_of_the_loop(run, x)

    patch.setattr(realnvp.training.loop, "train_step", train_step)


def tiny_modern() -> Config:
    """Conditional on the class, with Muon and averaged weights."""
    preset = with_model(PRESETS["digits-modern"], width=4, num_couplings=1)
    few = {"max_steps": 12, "batch_size": 32, "eval_images": 40, "warmup": 2, "ema_decay": 0.9}
    every = {"eval_every": 6, "sample_every": 6, "save_every": 4, "log_every": 5}
    return with_classes(with_train(preset, **few, **every, tracker="none"))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_is_bit_equal(
    tiny: Config, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int
) -> None:
    signal_at(monkeypatch, {0, 1, 5, 9}, signum)
    for _ in range(4):
        with pytest.raises(TrainingStopped) as stopped:
            train(tiny, tmp_path / "run", device="cpu")
        assert stopped.value.exit_code == 128 + signum
        load_flow(tmp_path / "run")
    train(tiny, tmp_path / "run", device="cpu")
    assert_equal_runs(tmp_path / "run", run_dir)


def test_a_conditional_training_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_modern(), tmp_path / "whole", device="cpu")
    signal_at(monkeypatch, {5}, signal.SIGTERM)
    with pytest.raises(TrainingStopped):
        train(tiny_modern(), tmp_path / "run", device="cpu")
    train(tiny_modern(), tmp_path / "run", device="cpu")
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


def test_a_signal_cuts_an_evaluation_short(
    tiny: Config, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resumed training makes up for the evaluation."""
    log_prob, signals = Flow.log_prob, [signal.SIGTERM]

    def signalling(flow: Flow, *args: Any) -> Tensor:  # steps call forward
        if signals:
            os.kill(os.getpid(), signals.pop())
        return log_prob(flow, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Flow, "log_prob", signalling)
        with pytest.raises(TrainingStopped, match="step 6 "):
            train(tiny, tmp_path / "run", device="cpu")
    train(tiny, tmp_path / "run", device="cpu")
    assert_equal_runs(tmp_path / "run", run_dir)


def test_more_steps_go_on_from_a_finished_run(tiny: Config, run_dir: Path, tmp_path: Path) -> None:
    train(with_train(tiny, max_steps=6), tmp_path / "run", device="cpu")
    train(tiny, tmp_path / "run", device="cpu")
    assert_equal_runs(tmp_path / "run", run_dir)


def test_gradient_checkpointing_changes_no_bit(tiny: Config, run_dir: Path, tmp_path: Path) -> None:
    train(with_train(tiny, gradient_checkpointing=True), tmp_path / "run", device="cpu")
    first, second = tensors_of(run_dir), tensors_of(tmp_path / "run")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_evaluations_leave_the_training_alone(tiny: Config, tmp_path: Path) -> None:
    """With rho = .9 the next steps would depend on re-estimated moments."""
    for name, every in (("often", 2), ("once", 12)):
        config = with_train(with_model(tiny, momentum=0.9), eval_every=every)
        train(config, tmp_path / name, device="cpu")
    first, second = tensors_of(tmp_path / "often"), tensors_of(tmp_path / "once")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_training_in_the_folder_is_refused(
    tiny: Config, run_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"config\.json.*train\.lr"):
        train(with_train(tiny, lr=0.1), run_dir, device="cpu")
    with lock_folder(tmp_path), pytest.raises(ValueError, match=str(tmp_path)):
        train(tiny, tmp_path, device="cpu")
    (tmp_path / "metrics.jsonl").write_text("mine")
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        train(tiny, tmp_path, device="cpu")
    assert (tmp_path / "metrics.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("data", "recipe", "word"),
    [({}, {"batch_size": 9999}, "batch_size"), ({"levels": 16}, {}, "levels")],
)
def test_a_refused_training_leaves_nothing(
    tiny: Config, tmp_path: Path, data: dict[str, Any], recipe: dict[str, Any], word: str
) -> None:
    """Neither a lock nor data nor folders."""
    config = with_train(replace(tiny, data=replace(tiny.data, **data)), **recipe)
    with pytest.raises(ValueError, match=word):
        train(config, tmp_path / "runs" / "new", device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_best_is_the_lowest_on_validation(run_dir: Path) -> None:
    key = "validation_bits_per_dim"
    found = {line["step"]: line[key] for line in evaluations_of(run_dir)}
    assert len(found) == 2
    facts = load_model(run_dir)[1]
    assert facts["step"] == min(found, key=lambda step: found[step])
    assert facts[key] == min(found.values())
    assert load_model(run_dir, "last")[1]["step"] == 12


def test_patience_and_minutes_end_a_training(tiny: Config, tmp_path: Path) -> None:
    """With a learning rate that ruins the model."""
    ruined = with_train(tiny, max_steps=200, eval_every=2, patience=2, lr=0.5)
    state = train(ruined, tmp_path / "run", device="cpu")
    assert state.step < 200
    assert state.evaluations_since_best == 2
    assert load_model(tmp_path / "run")[1]["step"] == state.best_step < state.step
    assert train(ruined, tmp_path / "run", device="cpu") == state
    minutes = with_train(tiny, max_steps=None, max_minutes=0.01)
    assert train(minutes, tmp_path / "minutes", device="cpu").training_seconds < 10


def test_the_penalty_is_in_the_loss(tiny: Config, tmp_path: Path) -> None:
    """A huge penalty shrinks each trained gain by the whole of Adam's three steps."""
    config = with_train(tiny, max_steps=3, lr=1e-2, l2=1e6)
    train(config, tmp_path / "run", device="cpu")
    trained, start = tensors_of(tmp_path / "run"), build(config).state_dict()
    gains = [name for name in start if name.endswith("gain")]
    shrunk = torch.cat([(start[name] - trained[name]).flatten() for name in gains])
    assert torch.allclose(shrunk, torch.tensor(0.03), rtol=1e-2)


def test_bfloat16_stays_in_the_networks(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State z, log-det and stored numbers are float32 or better."""
    state, inside = set[torch.dtype](), set[torch.dtype]()

    def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
        for module in run.flow.modules():
            if isinstance(module, Bijection):
                module.register_forward_hook(
                    lambda layer, inputs, outputs: state.update(each.dtype for each in outputs)
                )
            if isinstance(module, WeightNormConv):
                module.register_forward_hook(lambda layer, inputs, out: inside.add(out.dtype))
        return step_of_the_loop(run, x)

    monkeypatch.setattr(realnvp.training.loop, "train_step", train_step)
    config = with_train(tiny, max_steps=1, eval_every=1, precision="bfloat16")
    train(config, tmp_path / "run", device="cpu")
    assert inside == {torch.bfloat16, torch.float32}  # float32 in validation
    assert state == {torch.float32, torch.float64}  # float64 in validation and samples
    assert {each.dtype for each in tensors_of(tmp_path / "run").values()} == {torch.float32}


@pytest.mark.parametrize("poison", [torch.nan, 1e3])
def test_a_step_that_is_not_finite_changes_nothing(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: float
) -> None:
    """A run with one bad batch is the run without it: weights, Adam's state and moments.

    NaN, or pixels of density 0, whose loss is infinite while batch norm sees finite numbers.
    """

    def poisoned(run: Run, x: Tensor) -> tuple[float, float, int]:
        return step_of_the_loop(run, x.where(torch.tensor(run.state.step != 5), poison))

    def without(run: Run, x: Tensor) -> tuple[float, float, int]:
        if run.state.step != 5:
            return step_of_the_loop(run, x)
        run.state.skipped += 1
        return float("nan"), 0.0, 0

    found = []
    for name, train_step in (("poisoned", poisoned), ("without", without)):
        monkeypatch.setattr(realnvp.training.loop, "train_step", train_step)
        assert train(tiny, tmp_path / name, device="cpu").skipped == 1
        found.append(tensors_of(tmp_path / name))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert all(tensor.isfinite().all() for tensor in found[0].values())


def test_repeated_failures_end_the_training(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names step and batch."""
    at = Batches.at
    monkeypatch.setattr(Batches, "at", lambda *args, **kwargs: at(*args, **kwargs) * torch.nan)
    config = with_train(tiny, max_steps=40, eval_every=40)
    with pytest.raises(TrainingFailed, match=r"step 19.*\[\d+"):
        train(config, tmp_path / "run", device="cpu")


def test_a_dry_run_writes_nothing(tiny: Config, tmp_path: Path) -> None:
    config, parameters, seconds = seconds_per_step(tiny, device="cpu")
    assert config.data.shape == (1, 8, 8)
    assert parameters == sum(weight.numel() for weight in build(config).parameters())
    assert seconds > 0
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_one_line(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(realnvp.training.loop, "train_step", train_step)
    with pytest.raises(TrainingFailed, match=r"--train\.batch-size"):
        train(tiny, tmp_path / "run", device="cpu")


def short(preset: str, **model: Any) -> Config:
    """Eight slow steps in float64: a bias before a batch norm has rounding for a gradient, which
    Adam divides by no more than its size.
    """
    config = with_model(PRESETS[preset], **model)
    counts = {"max_steps": 8, "eval_every": 8, "sample_every": 8, "eval_images": 40, "warmup": 2}
    exact = {"batch_size": 32, "moment_batches": 2, "precision": "float64", "tracker": "none"}
    return with_train(config, lr=config.train.lr / 10, **counts, **exact)


SEVERAL = {
    "paper": short("digits", num_scales=2, width=8, num_blocks=1, momentum=0.9),
    "modern": with_classes(short("digits-modern", num_scales=2, width=4, num_couplings=2)),
    "table": short("table", width=8, num_couplings=4, batch_norm=True),
}
EACH = """
import sys
from pathlib import Path
from realnvp.cli.main import run
for config in sorted(Path(sys.argv[1]).glob("*.json")):
    out = str(config.with_suffix(""))
    assert run(["train", "--config", str(config), "--run-dir", out, "--device", "cpu"]) == 0
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of `SEVERAL` by two processes: NAME.json and its run, NAME. Only read it."""
    folder = tmp_path_factory.mktemp("two")
    rows = np.random.default_rng(0).standard_normal((60, 3))
    rows[:, 1] += rows[:, 0] ** 2
    np.save(folder / "rows.npy", rows)
    for name, config in SEVERAL.items():
        if name == "table":
            config = replace(config, data=replace(config.data, source=str(folder / "rows.npy")))
        (folder / f"{name}.json").write_text(to_json(config))
    (folder / "each.py").write_text(EACH)
    in_two_processes(folder / "each.py", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_two_processes_take_the_steps_of_one(
    two_processes: Path, tmp_path: Path, name: str
) -> None:
    train(read_config(two_processes / f"{name}.json"), tmp_path / "one", device="cpu")
    one, both = tensors_of(tmp_path / "one"), tensors_of(two_processes / name)
    assert one.keys() == both.keys()
    for key, tensor in one.items():
        assert torch.allclose(tensor, both[key], rtol=0, atol=1e-9), key
    last, again = (evaluations_of(path)[-1] for path in (tmp_path / "one", two_processes / name))
    assert last == pytest.approx(again, abs=1e-9)


@pytest.mark.slow
def test_the_inverse_does_not_drift(tmp_path: Path) -> None:
    """The short form of python -m benchmarks.drift."""
    for _, bits, single, double, failed in drift(tmp_path / "run", 40, rows=2):
        assert bits < 4
        assert single < 1e-3 * 17 / 256
        assert double < 1e-10
        assert failed == 0


@pytest.mark.slow
def test_it_learns_the_digits(tiny: Config, tmp_path: Path) -> None:
    """Clearly better than independent pixels, each with its own 17 frequencies, 2.396 bits/dim."""
    config = with_train(with_model(tiny, width=16), max_steps=300, eval_every=100, save_every=300)
    train(config, tmp_path / "run", device="cpu")
    assert run(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["num_images"] == 180
    assert result["bits_per_dim"] + 3 * result["standard_error"] < 2.396
