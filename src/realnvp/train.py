"""The training loop: maximum likelihood by Adam (section 4.1), resumable to the bit."""

import json
import math
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor

from realnvp.averages import WeightAverage
from realnvp.batches import Batches
from realnvp.bijections import ActNorm, starting
from realnvp.checkpoint import TrainState, load_checkpoint, load_flow, lost_best, read_run_config, save_checkpoint, save_model
from realnvp.config import MAY_CHANGE, Config, TrainConfig, differences, resolve, to_json, validate
from realnvp.data import Splits, discard_prepared, prepare, quantize
from realnvp.data.source import SPLITS
from realnvp.device import has_bfloat16, pick_device
from realnvp.environment import environment, read_sittings
from realnvp.figures import data_beside_samples
from realnvp.flow import ROWS, Flow, images_at_once
from realnvp.folders import DamagedError, keep_last, lock_folder, naming, numbered, sweep, write_file
from realnvp.likelihood import Summary, evaluating, full_precision, log_probs, summarise
from realnvp.memory import check_memory
from realnvp.models import build, l2_penalty, matrices, recompute, standardise
from realnvp.moments import averaging, restore_moments, stored_moments
from realnvp.muon import Muon
from realnvp.noise import Purpose
from realnvp.nonfinite import first_nonfinite
from realnvp.progress import progress
from realnvp.schedule import rate
from realnvp.trackers import check_tracker, end_tracker, log_curves, start_tracker
from realnvp.units import Unit, unit_of

clock = time.monotonic
GRID = 36  # images of a grid of samples
MAX_FAILED = 20  # steps in a row without a finite loss and gradient, before the training gives up


class TrainingStopped(Exception):
    """A signal asked the training to stop; it has saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; the same command goes on from there")
        self.exit_code = 128 + signum


class TrainingFailed(Exception):
    """The loss or its gradient is not finite, again and again; or another process is gone."""

    exit_code = 1


@dataclass
class Run:
    """What a training works with."""

    config: Config
    run_dir: Path
    splits: Splits
    batches: Batches
    flow: Flow
    model: Any  # the flow, wrapped for several processes
    optimizers: list[Any]
    average: WeightAverage
    accelerator: Accelerator
    state: TrainState
    failed_in_a_row: int = 0
    step_seconds: float = 0.0

    @property
    def unit(self) -> Unit:
        """What log-densities are reported in."""
        return unit_of(self.config)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        train, state = self.config.train, self.state
        enough = self.progress >= 1 or bool(train.patience and state.evaluations_since_best >= train.patience)
        return enough and not state.pending

    @property
    def progress(self) -> float:
        """Which share of its steps or minutes, whichever is more, the training has done."""
        train, state = self.config.train, self.state
        minutes = state.training_seconds / 60 / train.max_minutes if train.max_minutes else 0.0
        return max(state.step / train.max_steps, minutes)


def train(config: Config, run_dir: str | Path, *, device: str = "auto", init_from: str | Path | None = None) -> TrainState:
    """Train a flow, or go on with the training in run_dir; where it stands at the end.

    init_from: a run or saved flow whose weights the training starts with. ValueError for bad input; TrainingStopped after SIGINT
    or SIGTERM; TrainingFailed if the numbers are beyond repair.
    """
    if config.data.source:  # so that the run can be looked at from any folder
        config = replace(config, data=replace(config.data, source=str(Path(config.data.source).expanduser().absolute())))
    with ExitStack() as stack:
        stack.enter_context(_with_others(config.train.timeout))
        run = start(validate(config), Path(run_dir), device=device, init_from=init_from, stack=stack)
        _check_best(run)
        if not run.finished:
            _loop(run, stack.enter_context(_stop_signals()))
        end_tracker(run.accelerator)
    return run.state


@contextmanager
def _with_others(timeout: float) -> Iterator[None]:
    """Within it, that another process has ended or does not answer is a TrainingFailed."""
    try:
        yield
    except RuntimeError as error:  # torch's own, of no kind of its own on CPUs
        if not re.search("gloo|NCCL|TCPStore|client socket", str(error)):
            raise
        reason = re.sub(r"^\[\S+\] ", "", str(error)).split(". ")[0]
        words = f"another process has ended, or has not answered for train.timeout = {timeout:g} seconds: {reason}"
        raise TrainingFailed(f"{words}; the same command goes on from the last checkpoint") from None


def _check_best(run: Run) -> None:
    """DamagedError if the best model of a finished training is lost; else a warning, and the next evaluation writes a new one."""
    if run.state.best is None or not (lost := lost_best(run.run_dir)):
        return
    if run.finished:
        raise DamagedError(f"{lost}; --train.max-steps N trains on and writes a new one")
    if run.accelerator.is_main_process:
        warnings.warn(f"{lost}; the next evaluation writes a new one", stacklevel=2)
    run.state.best = None


def _loop(run: Run, stop: list[int]) -> None:
    every, state, unit = run.config.train, run.state, run.unit
    began = time.monotonic() - state.seconds
    recent: list[float] = []  # losses since the last line of metrics.jsonl; nan for a skipped step
    ticked = time.monotonic()
    with progress("step", every.max_steps, start=state.step, enabled=run.accelerator.is_main_process) as report:
        if state.pending:
            _conclude(run, stop)
        while not run.finished:
            step_began = clock()
            loss, norm, signum = train_step(run, run.batches.at(state.step), stop=stop)
            run.step_seconds = clock() - step_began
            _count_failed(run, loss, norm)
            state.step += 1
            state.pending = True
            state.seconds = time.monotonic() - began
            recent.append(loss)

            if state.step % every.log_every == 0 or run.progress >= 1:
                value = unit.of(-float(np.mean(recent)), run.splits.shape)
                speed = len(recent) * run.batches.size / (time.monotonic() - ticked)
                values = {f"train_{unit.key}": value, "gradient_norm": norm, f"{unit.things}_per_second": speed}
                _log(run, values | {"skipped": state.skipped})
                words = f"{value:.3f} {unit.words}  {speed:.0f} {unit.things}/s  {_best(state)}"
                report(state.step, words, max(state.step, round(state.step / run.progress)))
                recent, ticked = [], time.monotonic()
            _conclude(run, stop, signum)


def _conclude(run: Run, stop: list[int], signum: int = 0) -> None:
    """Evaluate, draw samples and save, where it is time for that after a step.

    TrainingStopped if a signal has come (signum) or comes; then all is saved, and what it cut short is left to the resumed
    training, which so becomes the one that nobody stopped.
    """
    every, state, last = run.config.train, run.state, run.progress >= 1
    try:
        if signum:
            raise TrainingStopped(signum, state.step)
        with run.average.used():
            if state.step % every.eval_every == 0 or last:
                _evaluate(run, stop)
            if state.step % every.sample_every == 0 or last:
                _write_samples(run)
    except TrainingStopped:
        _save(run)
        raise
    state.pending = False
    if state.step % every.save_every == 0 or run.finished:
        _save(run)


def _heed(run: Run, stop: list[int]) -> None:
    """TrainingStopped if a signal has come to one of the processes."""
    signum = torch.tensor([max(stop, default=0)], device=run.accelerator.device)
    if everyones := int(run.accelerator.gather(signum).max()):
        raise TrainingStopped(everyones, run.state.step)


def _count_failed(run: Run, loss: float, norm: float) -> None:
    """Keep count of steps in a row that were not finite; TrainingFailed after too many."""
    if math.isfinite(loss) and math.isfinite(norm):
        run.failed_in_a_row = 0
        return
    run.failed_in_a_row += 1
    if run.failed_in_a_row == MAX_FAILED:
        images = run.batches.indices(run.state.step).tolist()
        where = first_nonfinite(run.flow, run.batches.at(run.state.step), l2=run.config.train.l2)
        found = f"loss {loss}, gradient norm {norm}, {where}"
        raise TrainingFailed(
            f"step {run.state.step}: {found}, after {MAX_FAILED} such steps in a row; training {run.unit.things} {images}"
        )


def _save(run: Run) -> None:
    if run.accelerator.is_main_process:
        save_checkpoint(
            run.run_dir, run.state, flow=run.flow, optimizers=[each.optimizer for each in run.optimizers], average=run.average
        )
    run.accelerator.wait_for_everyone()


def train_step(run: Run, x: Tensor, *, stop: list[int]) -> tuple[float, float, int]:
    """One step of Adam on x, this process' part of the batch: loss (nats an image), norm of its gradient, signal to stop or 0.

    A step whose loss or gradient is not finite, or far out (`skip_factor`), changes nothing: neither weights nor moments.
    """
    before, state, recipe = stored_moments(run.flow), run.state, run.config.train
    low = recipe.precision == "bfloat16" or (recipe.precision == "auto" and has_bfloat16(x.device))
    # The sum over images and D is large; Adam's eps and the clip are relative to nats an image (section 4.1).
    with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
        nats = -run.model(x).mean()
    run.accelerator.backward(nats + recipe.l2 * l2_penalty(run.flow))
    norm = torch.as_tensor(run.accelerator.clip_grad_norm_(run.flow.parameters(), _largest_norm(recipe, state)))
    mine = torch.stack([nats.detach(), norm.to(nats), nats.new_tensor(max(stop, default=0)), nats.new_tensor(run.step_seconds)])
    everyones = run.accelerator.gather(mine).view(-1, 4)
    loss, (_, norm, signal_to_stop, seconds) = everyones[:, 0].mean().item(), everyones.amax(0).tolist()
    state.training_seconds += seconds  # of the slowest process: all must agree on the learning rate
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite and not _far_out(recipe, state, norm):
        share = rate(run.progress, rising=(state.step + 1) / (recipe.warmup + 1), decay=recipe.decay)
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
            optimizer.step()
        run.average.update(state.step + 1)
    else:
        restore_moments(before)
        state.skipped += 1
    if finite:
        state.typical_norm = _typical(state.typical_norm, norm)
    run.flow.zero_grad()
    return loss, norm, int(signal_to_stop)


def _largest_norm(recipe: TrainConfig, state: TrainState) -> float:
    """To what the gradient is clipped."""
    if recipe.clip_factor is None or not state.typical_norm:
        return recipe.clip
    return min(recipe.clip, recipe.clip_factor * state.typical_norm)


def _far_out(recipe: TrainConfig, state: TrainState, norm: float) -> bool:
    """Whether this gradient, though finite, is not to be followed: Muon's steps have one size, and it would be led astray."""
    return recipe.skip_factor is not None and 0 < recipe.skip_factor * state.typical_norm < norm


def _typical(typical: float, norm: float) -> float:
    """The geometric mean of the norms so far, of the last fifty or so; one that is far out counts as ten times the typical."""
    return typical**0.98 * min(norm, 10 * typical) ** 0.02 if typical and norm else norm


def start(config: Config, run_dir: Path, *, device: str, init_from: str | Path | None, stack: ExitStack) -> Run:
    """Everything that a training works with, as its last checkpoint says; the stack holds run_dir's lock."""
    place = pick_device(device)
    check_tracker(config.train.tracker)
    accelerator = Accelerator(
        cpu=place.type == "cpu",
        mixed_precision="no",  # `train_step` casts: Accelerate would keep the first training's precision for all of the process
        log_with=None if config.train.tracker == "none" else config.train.tracker,
        project_dir=run_dir,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),  # moments are those of the global batch
            InitProcessGroupKwargs(timeout=timedelta(seconds=config.train.timeout)),
        ],
    )
    if accelerator.num_processes != int(os.environ.get("WORLD_SIZE", 1)):
        raise ValueError(f"--device: {place}: the {os.environ['WORLD_SIZE']} processes cannot be joined on it")
    _check_claim(config, run_dir)
    if accelerator.is_main_process:
        stack.enter_context(lock_folder(run_dir))
        _discard_unbegun(run_dir)
        stack.callback(_discard_unbegun, run_dir)
        prepare(config.data, seed=config.seed, folder=run_dir / "data", verify=SPLITS)
    accelerator.wait_for_everyone()
    splits = prepare(config.data, seed=config.seed, folder=run_dir / "data")
    config = resolve(config, splits.shape, splits.columns)
    rank, processes = accelerator.process_index, accelerator.num_processes
    check_memory(config, place, processes=processes)
    batches = Batches(splits.train, config, device=accelerator.device, process=rank, processes=processes)
    begun = bool(numbered(run_dir / "checkpoints", "step"))
    if begun and init_from is not None and accelerator.is_main_process:
        warnings.warn(f"--init-from: {run_dir} goes on from its own checkpoint", stacklevel=2)
    flow = _initial_flow(config, None if begun else init_from)
    optimizers = _optimizers(flow, config.train, fused=accelerator.device.type in ("cpu", "cuda"))
    flow.to(accelerator.device)
    if not begun and init_from is None:
        _start_from_data(flow, splits, batches)
    average = WeightAverage(flow, config.train.average)
    state, complaints = load_checkpoint(run_dir, flow=flow, optimizers=optimizers, average=average)
    if not begun and splits.levels is None:  # of few rows the Gaussian that it starts as may be the best model: evaluate it
        state.pending = True
    if accelerator.is_main_process:
        for complaint in complaints:
            warnings.warn(f"{complaint}; an older checkpoint is used", stacklevel=2)
        past = _past(run_dir, state)
    start_tracker(accelerator, config, run_dir, step=state.step)
    if accelerator.is_main_process:
        _claim(config, run_dir, state, past, device=str(accelerator.device), processes=processes)
    with warnings.catch_warnings():  # torch 2.13 renames the option, to a name that older ones do not know
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        model, *prepared = accelerator.prepare(flow, *optimizers)
    flow.train()
    return Run(config, run_dir, splits, batches, flow, model, prepared, average, accelerator, state)


def _start_from_data(flow: Flow, splits: Splits, batches: Batches) -> None:
    """Let the parts that can start from the data: of a table all of it, of images the first 128 or so."""
    if len(splits.shape) == 1:
        standardise(flow, splits.train[:])
    elif any(isinstance(module, ActNorm) for module in flow.modules()):
        first = range(-(-128 // batches.size))
        with starting(flow), torch.no_grad():
            flow.log_prob(torch.cat([batches.at(i, Purpose.MOMENTS) for i in first]))


def _optimizers(flow: Flow, recipe: TrainConfig, *, fused: bool) -> list[torch.optim.Optimizer]:
    """Adam, for all weights (section 4.1) or for those that are left when Muon has the matrices."""
    given = [] if recipe.muon_lr is None else matrices(flow)
    rest = [weight for weight in flow.parameters() if weight not in {*given}]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=recipe.lr, fused=fused)]
    if recipe.muon_lr is not None:
        optimizers.append(Muon(given, lr=recipe.muon_lr))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def _discard_unbegun(run_dir: Path) -> None:
    """Delete the data of a training that never began."""
    if not (run_dir / "config.json").exists():
        discard_prepared(run_dir / "data")


def _check_claim(config: Config, run_dir: Path) -> None:
    """ValueError names the fields in which the run directory's configuration differs, but for those that may change."""
    source = config.data.source and os.path.realpath(config.data.source)
    if source in (os.path.realpath(run_dir), os.path.realpath(run_dir / "data")):
        raise ValueError(f"--run-dir: {run_dir} is also data.source, which is only read")
    path = run_dir / "config.json"
    if not path.exists():
        return
    old = read_run_config(run_dir)
    if old.data.shape is None:
        raise DamagedError(f"{path}: data.shape is missing")
    now = resolve(config, old.data.shape, old.data.columns)
    if changed := [name for name in differences(old, now) if name not in MAY_CHANGE]:
        raise ValueError(f"{path}: this run was started with another {', '.join(changed)}; take another --run-dir")


Past = tuple[list[dict[str, Any]], list[str]]


def _past(run_dir: Path, state: TrainState) -> Past:
    """The sittings so far, and the lines of metrics.jsonl up to this state; DamagedError if they make no sense."""
    path = run_dir / "metrics.jsonl"
    sittings = read_sittings(run_dir) if (run_dir / "environment.json").exists() else []
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    return sittings, [line for line in lines if _place_of(line, path) <= (state.step, not state.pending)]


def _claim(config: Config, run_dir: Path, state: TrainState, past: Past, **where: Any) -> None:
    """Make run_dir this training's, from here on: folders, config.json, environment.json, no metrics of steps to come."""
    for folder in (run_dir, run_dir / "model", run_dir / "checkpoints", run_dir / "samples"):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    keep_last(run_dir / "checkpoints", "step", 2)  # one more is left if the last save was interrupted
    sittings, metrics = past
    sittings = [*sittings, {"from_step": state.step} | environment() | where]
    write_file(run_dir / "config.json", to_json(config))
    write_file(run_dir / "environment.json", json.dumps(sittings, indent=2) + "\n")
    write_file(run_dir / "metrics.jsonl", "".join(metrics))


def _place_of(line: str, path: Path) -> tuple[float, bool]:
    """The step of a line of metrics.jsonl, and whether it is its evaluation's; infinity for a last line that was not finished."""
    if not line.endswith("\n"):
        return math.inf, True
    try:
        entry = json.loads(line)
        return float(entry["step"]), "validation_standard_error" in entry
    except (ValueError, KeyError, TypeError):
        raise DamagedError(f"{path}: not the metrics of a training") from None


def _initial_flow(config: Config, init_from: str | Path | None) -> Flow:
    flow = build(config)
    if init_from is not None:
        given = load_flow(init_from)
        assert given.config is not None
        assert flow.config is not None
        fields = differences(given.config, flow.config)
        if changed := [name for name in fields if name.startswith(("data.shape", "model."))]:
            raise ValueError(f"{init_from}: its weights do not fit, since {', '.join(changed)} differs")
        flow.load_state_dict(given.state_dict())
    if config.train.recompute:
        recompute(flow)
    return flow.double() if config.train.precision == "float64" else flow


def _evaluate(run: Run, stop: list[int]) -> None:
    """Bits/dim, or nats, on validation with moments re-estimated over training batches; writes the last and the best model.

    TrainingStopped if a signal comes before it has a result: then nothing has changed.
    """
    before = stored_moments(run.flow)
    try:
        with averaging(run.flow), full_precision(), torch.no_grad():
            for step in range(run.config.train.moment_batches if before else 0):
                _heed(run, stop)
                run.flow.log_prob(run.batches.at(step, Purpose.MOMENTS))
        result = _validate(run, stop)
    except TrainingStopped:
        restore_moments(before)
        raise
    state, unit = run.state, run.unit
    better = math.isfinite(result.mean) and (state.best is None or unit.sign * result.mean > unit.sign * state.best)
    state.evaluations_since_best = 0 if better else state.evaluations_since_best + 1
    if result.nonfinite and run.accelerator.is_main_process:
        warnings.warn(f"step {state.step}: {result.nonfinite} validation {unit.things} have no finite log-density", stacklevel=2)
    if better:
        state.best, state.best_step = result.mean, state.step
    measured = {f"validation_{unit.key}": result.mean, "validation_standard_error": result.standard_error}
    if run.accelerator.is_main_process:
        facts = {"step": state.step} | measured
        for which in ["last", "best"] if better else ["last"]:
            save_model(run.flow, run.run_dir / "model" / f"{which}-{state.step:09d}", facts=facts)
            keep_last(run.run_dir / "model", which, 1)
    restore_moments(before)
    _log(run, measured)


def _validate(run: Run, stop: list[int]) -> Summary:
    images, rank, processes = run.splits.validation, run.accelerator.process_index, run.accelerator.num_processes
    chosen = np.linspace(0, len(images) - 1, min(len(images), run.config.train.eval_images)).astype(int)
    nats = torch.zeros(len(images), dtype=torch.float64)
    size = processes * (min(64, images_at_once(run.splits.shape)) if run.splits.levels else ROWS)
    for start in range(0, len(chosen), size):
        _heed(run, stop)
        if len(mine := chosen[start : start + size][rank::processes]):
            nats[mine] = log_probs(run.flow, np.moveaxis(images[mine], -1, 1), seed=run.config.seed, indices=mine.tolist())
    total = run.accelerator.reduce(nats if processes == 1 else nats.to(run.accelerator.device), "sum")
    assert isinstance(total, Tensor)
    groups = (run.splits.groups or {}).get("validation")
    values = run.unit.of(total.cpu()[chosen], run.splits.shape)
    return summarise(values, None if groups is None else np.array(groups)[chosen])


def _write_samples(run: Run) -> None:
    """A grid of data beside samples, from the same z each time, so that one sees it learn; none of a table."""
    if not run.accelerator.is_main_process or run.splits.levels is None:
        return
    with evaluating(run.flow):
        samples = quantize(run.flow.sample(GRID, seed=run.config.seed).nan_to_num(), levels=run.splits.levels)
    data = np.asarray(run.splits.validation[:GRID])
    path = run.run_dir / "samples" / f"step-{run.state.step:09d}.png"
    data_beside_samples(path, data, samples.cpu().permute(0, 2, 3, 1).numpy(), levels=run.splits.levels)


def _log(run: Run, values: dict[str, float]) -> None:
    if run.accelerator.is_main_process:
        entry = {"step": run.state.step, "seconds": round(run.state.seconds, 3)} | values
        path = run.run_dir / "metrics.jsonl"
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in entry.items()}) + "\n")
    log_curves(run.accelerator, run.run_dir, values, step=run.state.step)


def _best(state: TrainState) -> str:
    return "" if state.best is None else f"best validation {state.best:.3f}"


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that gets the number of each SIGINT or SIGTERM that comes; a second one acts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return

    def receive(signum: int, frame: Any) -> None:
        received.append(signum)
        signal.signal(signum, signal.SIG_DFL if signum == signal.SIGTERM else signal.default_int_handler)

    old = {signum: signal.signal(signum, receive) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
