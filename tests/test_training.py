"""Training loses nothing: resume, skipped steps, several processes, and it learns."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

import realnvp.training.loop
from benchmarks.drift import drift
from realnvp.config import PRESETS, Config, read_config, to_json
from realnvp.evaluation.evaluate import evaluate
from realnvp.evaluation.record import OfImages
from realnvp.flows.build import build
from realnvp.flows.flow import Flow
from realnvp.io.files import DamagedError, lock_folder
from realnvp.io.pretrained import load_flow
from realnvp.io.run_dir import RunDir
from realnvp.training.loop import train
from realnvp.training.run import Run
from realnvp.training.session import TrainingFailed, TrainingStopped

step_of_the_loop = realnvp.training.loop.train_step


def final_tensors(run_dir: Path) -> dict[str, Tensor]:
    files, complaints = newest_intact(run_dir / "checkpoints", "step")
    assert files is not None
    assert not complaints
    return safetensors.torch.load(files["state.safetensors"])


def assert_bit_equal(a: Path, b: Path) -> None:
    first, second = final_tensors(a), final_tensors(b)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def with_train(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def interrupt_at(monkeypatch: pytest.MonkeyPatch, steps: set[int], signum: int) -> None:
    """Send this process a signal while it does these steps, each once."""

    def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
        if run.state.step in steps:
            steps.remove(run.state.step)
            os.kill(os.getpid(), signum)
        return step_of_the_loop(run, x)

    monkeypatch.setattr(realnvp.training.loop, "train_step", train_step)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_is_bit_equal(
    tiny: Config, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int
) -> None:
    interrupt_at(monkeypatch, {0, 1, 5, 9}, signum)
    for _ in range(4):
        with pytest.raises(TrainingStopped, match="goes on") as stopped:
            train(tiny, tmp_path / "run", device="cpu")
        assert stopped.value.exit_code == 128 + signum
    train(tiny, tmp_path / "run", device="cpu")
    assert_bit_equal(tmp_path / "run", run_dir)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    assert load_flow(tmp_path / "run").state_dict().keys() == load_flow(run_dir).state_dict().keys()
    for name, tensor in load_flow(run_dir).state_dict().items():
        assert torch.equal(tensor, load_flow(tmp_path / "run").state_dict()[name])


def test_a_training_given_classes_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = given_classes(short("digits-modern", width=4, num_couplings=1))
    train(config, tmp_path / "whole", device="cpu")
    interrupt_at(monkeypatch, {5}, signal.SIGTERM)
    with pytest.raises(TrainingStopped):
        train(config, tmp_path / "run", device="cpu")
    train(config, tmp_path / "run", device="cpu")
    assert_bit_equal(tmp_path / "run", tmp_path / "whole")


def test_a_signal_cuts_an_evaluation_short(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch of it is computed after the signal, and the resumed training makes up for it, also
    after a crash while it does.
    """
    config = with_train(
        tiny, log_every=1, eval_images=180, ema_decay=0.9, tracker="none"
    )  # 4 batches for moments, then 3
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, momentum=0.9))
    train(config, tmp_path / "whole", device="cpu")
    log_prob = Flow.log_prob

    def session(*, signal_at: int) -> None:
        """Train; a signal comes while that batch of evaluations is computed."""
        batches = itertools.count(1)

        def signalling(flow: Flow, x: Tensor) -> Tensor:
            batch = next(batches)
            assert batch <= signal_at
            if batch == signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return log_prob(flow, x)

        with monkeypatch.context() as patch:
            patch.setattr(Flow, "log_prob", signalling)
            train(config, tmp_path / "run", device="cpu")

    for batch in (2, 6):
        with pytest.raises(TrainingStopped, match="at step 6 and saved") as stopped:
            session(signal_at=batch)
        assert stopped.value.exit_code == 143
    with monkeypatch.context() as patch:
        patch.setattr(realnvp.training.loop, "write_samples", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session(signal_at=1000)
    with pytest.raises(TrainingStopped, match="at step 12 and saved"):
        session(signal_at=7 + 1)
    session(signal_at=1000)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def assert_same_run(a: Path, b: Path) -> None:
    """All that two trainings left is equal, but for times and the checkpoint before the last."""
    assert_bit_equal(a, b)
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (a, b)
    ]
    numbers = [
        [{name: value for name, value in line.items() if "second" not in name} for line in each]
        for each in lines
    ]
    assert numbers[0] == numbers[1]
    states = [state for run in (a, b) if (state := RunDir(run).state)]
    timeless = [dataclasses.replace(state, seconds=0, training_seconds=0) for state in states]
    assert timeless[0] == timeless[1]
    files = [
        sorted(
            path
            for kind in ("model", "samples")
            for path in (run / kind).rglob("*")
            if path.is_file()
        )
        for run in (a, b)
    ]
    assert [path.relative_to(a) for path in files[0]] == [path.relative_to(b) for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_curves_go_on_without_a_gap(
    tiny: Config, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The points of the step that a training was stopped at are kept in TensorBoard's files, too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupt_at(monkeypatch, {4}, signal.SIGTERM)
    with pytest.raises(TrainingStopped):
        train(tiny, tmp_path / "run", device="cpu")
    train(tiny, tmp_path / "run", device="cpu")
    curves = EventAccumulator(str(next((tmp_path / "run").rglob("events.out.*")).parent)).Reload()
    assert [point.step for point in curves.Scalars("train_bits_per_dim")] == [5, 10, 12]


def test_killed_without_warning_resumes_from_the_last_checkpoint(
    tiny: Config, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
        if run.state.step == 10:
            raise MemoryError  # nothing in the loop handles it, as nothing handles SIGKILL
        return step_of_the_loop(run, x)

    with monkeypatch.context() as patch:
        patch.setattr(realnvp.training.loop, "train_step", train_step)
        with pytest.raises(MemoryError):
            train(tiny, tmp_path / "run", device="cpu")
    train(tiny, tmp_path / "run", device="cpu")
    assert_bit_equal(tmp_path / "run", run_dir)


def test_more_steps_go_on_from_a_finished_run(tiny: Config, run_dir: Path, tmp_path: Path) -> None:
    train(with_train(tiny, max_steps=8), tmp_path / "run", device="cpu")
    train(tiny, tmp_path / "run", device="cpu")
    assert_bit_equal(tmp_path / "run", run_dir)


def test_another_configuration_is_refused_by_its_field(tiny: Config, run_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json.*train\.lr"):
        train(with_train(tiny, lr=0.1), run_dir, device="cpu")


@pytest.mark.parametrize("poison", [torch.nan, 1e3])
def test_a_step_that_is_not_finite_changes_nothing(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: float
) -> None:
    """A run with one bad batch is the run without it: weights, Adam's state and moments.

    NaN, or pixels of density 0, whose loss is infinite while all batch norms see finite numbers.
    """

    def poisoned(run: Run, x: Tensor) -> tuple[float, float, int]:
        return step_of_the_loop(run, x.where(torch.tensor(run.state.step != 5), poison))

    def without(run: Run, x: Tensor) -> tuple[float, float, int]:
        if run.state.step != 5:
            return step_of_the_loop(run, x)
        run.state.skipped += 1
        return float("nan"), 0.0, 0

    for name, train_step in (("poisoned", poisoned), ("without", without)):
        monkeypatch.setattr(realnvp.training.loop, "train_step", train_step)
        assert train(tiny, tmp_path / name, device="cpu").skipped == 1
    assert_bit_equal(tmp_path / "poisoned", tmp_path / "without")
    assert all(tensor.isfinite().all() for tensor in final_tensors(tmp_path / "poisoned").values())


def test_a_training_beyond_repair_says_where(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realnvp.training.loop, "train_step", lambda run, x: (float("nan"), 0.0, 0))
    with pytest.raises(
        TrainingFailed, match=r"step 19: loss nan.*20 such steps in a row; training images \[\d"
    ):
        train(with_train(tiny, max_steps=40), tmp_path / "run", device="cpu")


def short(preset: str, **model: Any) -> Config:
    """Eight steps of a preset, in float64.

    Slow ones: a bias right before a batch norm has rounding for a gradient, which Adam divides by no more than its size.
    """
    config = PRESETS[preset]
    counts = {
        "max_steps": 8,
        "eval_every": 8,
        "sample_every": 8,
        "eval_images": 40,
        "moment_batches": 2,
        "warmup": 2,
    }
    recipe = dataclasses.replace(
        config.train,
        lr=config.train.lr / 10,
        **counts,
        batch_size=32,
        precision="float64",
        tracker="none",
    )
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, **model), train=recipe
    )


def given_classes(config: Config) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, classes=True))


SEVERAL = {
    "0.0": short("digits", num_scales=2, width=8, num_blocks=1),
    "0.9": short("digits", num_scales=2, width=8, num_blocks=1, momentum=0.9),
    "modern": short("digits-modern", width=8, num_couplings=3),
    "modern, two scales": short("digits-modern", num_scales=2, width=4, num_couplings=2),
    "table": short("table", width=8, num_couplings=4, batch_norm=True),
    "given classes": given_classes(short("digits-modern", width=8, num_couplings=2)),
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of these trainings by two processes, which are started once: NAME.json and its run,
    NAME. Only read it.
    """
    folder = tmp_path_factory.mktemp("two")
    rows = np.random.default_rng(0).standard_normal((60, 3))
    rows[:, 1] += rows[:, 0] ** 2
    np.save(folder / "rows.npy", rows)
    for name, config in SEVERAL.items():
        if name == "table":
            config = dataclasses.replace(
                config, data=dataclasses.replace(config.data, source=str(folder / "rows.npy"))
            )
        (folder / f"{name}.json").write_text(to_json(config))
    (folder / "each.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from accelerate import Accelerator\n"
        "from realnvp.cli.main import run\n"
        "Accelerator.end_training = lambda self: None  # the next one takes the same group of processes\n"
        "for config in sorted(Path(sys.argv[1]).glob('*.json')):\n"
        "    assert run(['train', '--config', str(config), '--run-dir', str(config.with_suffix('')), '--device', 'cpu']) == 0\n"
    )
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr",  # else each asks what the machine's name is
        "127.0.0.1",
        "--nproc-per-node",
        "2",
        str(folder / "each.py"),
        str(folder),
    ]
    ran = subprocess.run([sys.executable, *launch], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert "warning" not in ran.stderr, ran.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_two_processes_take_the_steps_of_one(
    two_processes: Path, tmp_path: Path, name: str
) -> None:
    train(read_config(two_processes / f"{name}.json"), tmp_path / "one", device="cpu")
    one, both = final_tensors(tmp_path / "one"), final_tensors(two_processes / name)
    assert one.keys() == both.keys()
    assert (
        max(
            (one[name] - both[name]).abs().max().item()
            for name in one
            if not name.endswith(".step")
        )
        < 1e-9
    )
    lines = [
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        for run in (tmp_path / "one", two_processes / name)
    ]
    found = [
        line["validation_log_likelihood" if name == "table" else "validation_bits_per_dim"]
        for line in lines
    ]
    assert abs(found[0] - found[1]) < 1e-9


def test_best_model_is_chosen_without_the_test_set(
    tiny: Config, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run with another test set ends with the same best model."""
    prepare = realnvp.training.loop.prepare

    def without_test(*args: Any, **settings: Any) -> Any:
        splits = prepare(*args, **settings)
        return dataclasses.replace(
            splits, splits={**splits.splits, "test": np.zeros_like(splits.test)}
        )

    monkeypatch.setattr(realnvp.training.loop, "prepare", without_test)
    train(tiny, tmp_path / "run", device="cpu")
    assert_bit_equal(tmp_path / "run", run_dir)
    files = [newest_intact(folder / "model", "best")[0] for folder in (run_dir, tmp_path / "run")]
    assert files[0] == files[1]


def test_speed_is_that_of_the_steps_alone(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(
        realnvp.training.loop, "clock", lambda: float(next(ticks))
    )  # each step takes one second
    train(with_train(tiny, max_steps=6, log_every=2, eval_every=2), tmp_path / "run", device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["images_per_second"] for line in lines if "images_per_second" in line] == [
        tiny.train.batch_size
    ] * 3


def test_evaluations_leave_the_training_alone(tiny: Config, tmp_path: Path) -> None:
    """Moments that are re-estimated for an evaluation are put back.

    With rho = .9 the next steps would depend on them.
    """
    config = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, momentum=0.9))
    for name, every in (("often", 2), ("once", 12)):
        train(with_train(config, eval_every=every), tmp_path / name, device="cpu")
    assert_bit_equal(tmp_path / "often", tmp_path / "once")


def test_a_second_training_in_the_same_folder_is_refused(tiny: Config, tmp_path: Path) -> None:
    with lock_folder(tmp_path / "run"), pytest.raises(ValueError, match="another process"):
        train(tiny, tmp_path / "run", device="cpu")
    assert train(tiny, tmp_path / "run", device="cpu").step == 12


def test_changed_data_are_told(tiny: Config, run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    path = tmp_path / "run" / "data" / "train.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"train\.npy.*checksum"):
        train(tiny, tmp_path / "run", device="cpu")


def test_a_training_that_never_began_does_not_claim_its_folder(
    tiny: Config, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"train\.batch_size"):
        train(with_train(tiny, batch_size=100_000), tmp_path / "run", device="cpu")
    assert train(dataclasses.replace(tiny, seed=1), tmp_path / "run", device="cpu").step == 12


def test_best_is_the_lowest_on_validation(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    validation = {
        line["step"]: line["validation_bits_per_dim"]
        for line in lines
        if "validation_bits_per_dim" in line
    }
    assert len(validation) == 2
    facts = json.loads((newest_intact(run_dir / "model", "best")[0] or {})["facts.json"])
    assert facts["step"] == min(validation, key=lambda step: validation[step])
    assert facts["validation_bits_per_dim"] == min(validation.values())


def test_the_penalty_is_in_the_loss(tiny: Config, tmp_path: Path) -> None:
    """With a weight that outdoes everything else, each trained gain shrinks by the whole of Adam's
    three steps.
    """
    config = with_train(tiny, max_steps=3, lr=1e-2, l2=1e6)
    train(config, tmp_path / "run", device="cpu")
    tensors, start = final_tensors(tmp_path / "run"), build(config).state_dict()
    shrunk = torch.cat(
        [
            (start[name] - tensors[f"flow.{name}"]).flatten()
            for name in start
            if name.endswith("gain")
        ]
    )
    assert torch.allclose(shrunk, torch.tensor(0.03), rtol=1e-2)


def test_early_stopping(tiny: Config, tmp_path: Path) -> None:
    """With a learning rate that ruins the model, it stops after `patience` evaluations and keeps
    the best.
    """
    state = train(
        with_train(tiny, max_steps=200, eval_every=2, patience=2, lr=0.5),
        tmp_path / "run",
        device="cpu",
    )
    assert state.step < 200
    assert state.evaluations_since_best == 2
    facts = json.loads((newest_intact(tmp_path / "run/model", "best")[0] or {})["facts.json"])
    assert facts["step"] == state.best_step < state.step
    assert (
        train(
            with_train(tiny, max_steps=200, eval_every=2, patience=2, lr=0.5),
            tmp_path / "run",
            device="cpu",
        )
        == state
    )


def test_fine_tuning_starts_with_given_weights(tiny: Config, run_dir: Path, tmp_path: Path) -> None:
    state = train(
        with_train(tiny, max_steps=1, eval_every=1, lr=1e-12),
        tmp_path / "run",
        device="cpu",
        init_from=run_dir,
    )
    assert state.step == 1
    for name, parameter in load_flow(tmp_path / "run").named_parameters():
        assert (parameter - dict(load_flow(run_dir).named_parameters())[name]).abs().max() < 1e-6
    wider = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, width=9))
    with pytest.raises(ValueError, match=r"model\.width is 8 there, 9 here"):
        train(wider, tmp_path / "wider", device="cpu", init_from=run_dir)


def test_bfloat16_stays_in_the_networks(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State z and log-det are float32 in every bijection, also while the networks compute in
    bfloat16; so are stored numbers.
    """
    seen: set[torch.dtype] = set()
    inside: set[torch.dtype] = set()

    def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
        for module in run.flow.modules():
            if isinstance(module, realnvp.bijections.Bijection):
                module.register_forward_hook(
                    lambda layer, inputs, outputs: seen.update(tensor.dtype for tensor in outputs)
                )
            if isinstance(module, realnvp.nets.layers.WeightNormConv):
                module.register_forward_hook(lambda layer, inputs, output: inside.add(output.dtype))
        return step_of_the_loop(run, x)

    monkeypatch.setattr(realnvp.training.loop, "train_step", train_step)
    train(
        with_train(tiny, max_steps=1, eval_every=1, precision="bfloat16"),
        tmp_path / "run",
        device="cpu",
    )
    assert inside == {torch.bfloat16, torch.float32}  # float32 in validation
    assert seen == {torch.float32, torch.float64}  # float64 in validation and samples
    assert {tensor.dtype for tensor in final_tensors(tmp_path / "run").values()} == {torch.float32}
    AcceleratorState._reset_state(True)


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
    config = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, width=16))
    train(
        with_train(config, max_steps=300, eval_every=100, save_every=300),
        tmp_path / "run",
        device="cpu",
    )
    result = evaluate(load_flow(tmp_path / "run"), tmp_path / "run")
    assert isinstance(result, OfImages)
    assert result.num_images == 180
    assert result.bits_per_dim is not None
    assert result.standard_error is not None
    assert result.bits_per_dim + 3 * result.standard_error < 2.396
