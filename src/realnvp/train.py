"""The training loop: maximum likelihood by Adam (section 4.1), resumable to the bit."""

import json
import math
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from realnvp.checkpoint import TrainState, load_checkpoint, load_flow, save_checkpoint, save_flow
from realnvp.config import MAY_CHANGE, Config, differences, from_json, resolve, to_json, validate
from realnvp.data import Splits, dequantise, prepare, quantize
from realnvp.likelihood import BitsPerDim, evaluating, log_probs, summarise
from realnvp.figures import data_beside_samples
from realnvp.flow import Flow
from realnvp.folders import keep_last, sweep, write_file
from realnvp.models import build, l2_penalty
from realnvp.moments import averaging, restore_moments, stored_moments
from realnvp.noise import Purpose, generator, uniform
from realnvp.progress import progress

GRID = 36  # images of a grid of samples
MAX_SKIPPED = 20  # steps in a row without a finite loss and gradient, before the training gives up


class TrainingStopped(Exception):
    """A signal asked the training to stop; it has saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; the same command goes on from there")
        self.signum = signum


class TrainingFailed(Exception):
    """The loss or its gradient is not finite, again and again."""


@dataclass
class Run:
    """What a training works with."""

    config: Config
    run_dir: Path
    splits: Splits
    flow: Flow
    model: Any  # the flow, wrapped for several processes
    optimizer: Any
    accelerator: Accelerator
    state: TrainState

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        train, state = self.config.train, self.state
        return state.step >= train.max_steps or bool(train.patience and state.evaluations_since_best >= train.patience)


def train(config: Config, run_dir: str | Path, *, device: str = "auto", init_from: str | Path | None = None) -> TrainState:
    """Train a flow, or go on with the training in run_dir; where it stands at the end.

    init_from: a run or saved flow whose weights the training starts with. ValueError for bad input; TrainingStopped after SIGINT
    or SIGTERM; TrainingFailed if the numbers are beyond repair.
    """
    with _stop_signals() as stop:
        run = start(config, Path(run_dir), device=device, init_from=init_from)
        if not run.finished:
            _loop(run, stop)
        run.accelerator.end_training()
    return run.state


def _loop(run: Run, stop: list[int]) -> None:
    every, state = run.config.train, run.state
    main = run.accelerator.is_main_process
    batches = Batches(run.splits, run.config, run.accelerator)
    began, skipped_in_a_row = time.monotonic() - state.seconds, 0
    tick, ticked = time.monotonic(), state.step
    with progress("step", every.max_steps, start=state.step, enabled=main) as report:
        while not run.finished:
            loss, norm, stopping = train_step(run, batches.at(state.step), stop=stop)
            finite = math.isfinite(loss) and math.isfinite(norm)
            skipped_in_a_row = 0 if finite else skipped_in_a_row + 1
            if skipped_in_a_row == MAX_SKIPPED:
                images = batches.indices(state.step).tolist()
                raise TrainingFailed(f"step {state.step}: loss {loss} for {MAX_SKIPPED} steps in a row, last with images {images}")
            state.skipped += not finite
            state.step += 1
            state.seconds = time.monotonic() - began

            last = state.step == every.max_steps
            if state.step % every.log_every == 0 or last:
                speed = (state.step - ticked) * every.batch_size / (time.monotonic() - tick)
                tick, ticked = time.monotonic(), state.step
                bits = loss / (math.log(2) * math.prod(run.splits.shape))
                _log(run, {"train_bits_per_dim": bits, "gradient_norm": norm, "images_per_second": speed, "skipped": state.skipped})
                report(state.step, f"{bits:.3f} bits/dim  {speed:.0f} images/s  {_best(state)}")
            if state.step % every.eval_every == 0 or last:
                _evaluate(run, batches)
            if (state.step % every.sample_every == 0 or last) and main:
                write_samples(run)
            if state.step % every.save_every == 0 or run.finished or stopping:
                if main:
                    save_checkpoint(run.run_dir, state, flow=run.flow, optimizer=run.optimizer.optimizer)
                run.accelerator.wait_for_everyone()
            if stopping and not run.finished:
                raise TrainingStopped(stopping, state.step)


def train_step(run: Run, x: Tensor, *, stop: list[int]) -> tuple[float, float, int]:
    """One step of Adam on x, this process' part of the batch: loss (nats an image), norm of its gradient, signal to stop or 0.

    A step whose loss or gradient is not finite changes nothing: neither weights nor moments.
    """
    before = stored_moments(run.flow)
    # The sum over images and D is large; Adam's eps and the clip are relative to nats an image (section 4.1).
    nats = -run.model(x).mean()
    run.accelerator.backward(nats + run.config.train.l2 * l2_penalty(run.flow))
    norm = torch.as_tensor(run.accelerator.clip_grad_norm_(run.flow.parameters(), run.config.train.clip))
    signum = torch.as_tensor(float(max(stop, default=0)), device=nats.device)
    everyones = run.accelerator.gather(torch.stack([nats.detach(), norm.to(nats), signum.to(nats)])).view(-1, 3)
    loss, _, _ = everyones.mean(0).tolist()
    norm, signal_to_stop = everyones[:, 1].max().item(), int(everyones[:, 2].max())
    if math.isfinite(loss) and math.isfinite(norm):
        run.optimizer.step()
    else:
        restore_moments(before)
    run.optimizer.zero_grad()
    return loss, norm, signal_to_stop


class Batches:
    """Training batches as functions of the step: no state, so a resumed training sees what an uninterrupted one sees."""

    def __init__(self, splits: Splits, config: Config, accelerator: Accelerator) -> None:
        size, processes = config.train.batch_size, accelerator.num_processes
        if size > len(splits.train):
            raise ValueError(f"train.batch_size: {size}, but there are only {len(splits.train)} training images")
        if size % processes:
            raise ValueError(f"train.batch_size: {size} cannot be divided among {processes} processes")
        self.images, self.config, self.device = splits.train, config, accelerator.device
        self.mine = slice(accelerator.process_index, None, processes)
        self.per_epoch = len(splits.train) // size
        self.dtype = torch.float64 if config.train.precision == "float64" else torch.float32
        self._epoch, self._order, self._flips = -1, np.empty(0, np.int64), np.empty(0, np.bool_)

    def indices(self, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Which images step's batch holds, over all processes."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            count, seed = len(self.images), self.config.seed
            self._order = generator(seed, Purpose.ORDER, round=epoch).permutation(count)
            self._flips = generator(seed, Purpose.FLIP, round=epoch).random(count) < 0.5
            self._epoch = epoch
        size = self.config.train.batch_size
        return self._order[position * size : (position + 1) * size]

    def at(self, step: int, purpose: Purpose = Purpose.TRAIN) -> Tensor:
        """x = v + u, (B, C, H, W), this process' part of step's batch, on its device."""
        mine = self.indices(step)[self.mine]
        pixels = torch.from_numpy(self.images[mine].transpose(0, 3, 1, 2)).to(self.device)
        if self.config.data.flip:
            mirrored = torch.from_numpy(self._flips[mine]).to(self.device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        noise = uniform(pixels.shape[1:], self.config.seed, purpose, indices=mine, round=self._epoch)
        return dequantise(pixels, noise.to(self.device, self.dtype))


def start(config: Config, run_dir: Path, *, device: str, init_from: str | Path | None) -> Run:
    """Everything that a training works with, as its last checkpoint says."""
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if config.train.precision == "bfloat16" else "no",
        log_with=None if config.train.tracker == "none" else config.train.tracker,
        project_dir=run_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],  # moments are those of the global batch
    )
    if accelerator.is_main_process:
        _claim(config, run_dir)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        prepare(config.data, seed=config.seed, folder=run_dir / "data")
    accelerator.wait_for_everyone()
    splits = prepare(config.data, seed=config.seed, folder=run_dir / "data")
    config = resolve(config, splits.shape)
    flow = _initial_flow(config, init_from)
    optimizer = torch.optim.Adam(flow.parameters(), lr=config.train.lr)
    flow.to(accelerator.device)
    state, complaints = load_checkpoint(run_dir, flow=flow, optimizer=optimizer)
    if accelerator.is_main_process:
        for complaint in complaints:
            warnings.warn(f"{complaint}; an older checkpoint is used", stacklevel=2)
        _cut_metrics(run_dir, state.step)
        write_file(run_dir / "config.json", to_json(config))
    if config.train.tracker != "none":
        options = {"tensorboard": {"purge_step": state.step}} if config.train.tracker == "tensorboard" else {}
        accelerator.init_trackers("curves", init_kwargs=options)
    model, prepared = accelerator.prepare(flow, optimizer)
    flow.train()
    return Run(config, run_dir, splits, flow, model, prepared, accelerator, state)


def _claim(config: Config, run_dir: Path) -> None:
    """Make run_dir this configuration's, or make sure that it is."""
    validate(config)
    for folder in (run_dir, run_dir / "model", run_dir / "checkpoints", run_dir / "samples"):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    path = run_dir / "config.json"
    if not path.exists():
        write_file(path, to_json(config))
        return
    old = from_json(path.read_text(), path)
    if config.data.shape is None or config.model.num_scales is None:
        assert old.data.shape is not None
        config = resolve(config, old.data.shape)
    if changed := [name for name in differences(old, config) if name not in MAY_CHANGE]:
        raise ValueError(f"{path}: this run was started with another {', '.join(changed)}; take another --run-dir")


def _initial_flow(config: Config, init_from: str | Path | None) -> Flow:
    flow = build(config)
    if init_from is not None:
        given = load_flow(init_from)
        assert given.config is not None and flow.config is not None
        if changed := [name for name in differences(given.config, flow.config) if name in ("data.shape",) or name.startswith("model.")]:
            raise ValueError(f"{init_from}: its weights do not fit, since {', '.join(changed)} differs")
        flow.load_state_dict(given.state_dict())
    return flow.double() if config.train.precision == "float64" else flow


def _evaluate(run: Run, batches: Batches) -> None:
    """Bits/dim on the validation split with moments re-estimated over training batches; writes the last and the best model."""
    before = stored_moments(run.flow)
    with averaging(run.flow), torch.no_grad():
        for step in range(run.config.train.moment_batches):
            run.flow.log_prob(batches.at(step, Purpose.MOMENTS))
    result = _validate(run)
    state = run.state
    better = math.isfinite(result.mean) and (state.best is None or result.mean < state.best)
    state.evaluations_since_best = 0 if better else state.evaluations_since_best + 1
    if better:
        state.best, state.best_step = result.mean, state.step
    if run.accelerator.is_main_process:
        facts = {"step": state.step, "validation_bits_per_dim": result.mean, "validation_standard_error": result.standard_error}
        for which in ["last", "best"] if better else ["last"]:
            save_flow(run.flow, run.run_dir / "model" / f"{which}-{state.step:09d}", facts=facts)
            keep_last(run.run_dir / "model", which, 1)
    restore_moments(before)
    _log(run, {"validation_bits_per_dim": result.mean, "validation_standard_error": result.standard_error})


def _validate(run: Run) -> BitsPerDim:
    images = run.splits.validation
    chosen = np.linspace(0, len(images) - 1, min(len(images), run.config.train.eval_images)).astype(int)
    mine = chosen[run.accelerator.process_index :: run.accelerator.num_processes]
    nats = torch.zeros(len(images), dtype=torch.float64)
    if len(mine):
        nats[mine] = log_probs(run.flow, images[mine].transpose(0, 3, 1, 2), seed=run.config.seed, indices=mine.tolist())
    total = run.accelerator.reduce(nats.to(run.accelerator.device), "sum")
    assert isinstance(total, Tensor)
    return summarise(total.cpu()[chosen] / (-math.log(2) * math.prod(run.splits.shape)))


def write_samples(run: Run) -> None:
    """A grid of data beside samples, from the same z each time, so that one sees it learn."""
    with evaluating(run.flow):
        samples = quantize(run.flow.sample(GRID, seed=run.config.seed).nan_to_num(), levels=run.splits.levels)
    data = np.asarray(run.splits.validation[:GRID])
    path = run.run_dir / "samples" / f"step-{run.state.step:09d}.png"
    data_beside_samples(path, data, samples.cpu().permute(0, 2, 3, 1).numpy(), levels=run.splits.levels)


def _log(run: Run, values: dict[str, float]) -> None:
    if run.accelerator.is_main_process:
        entry = {"step": run.state.step, "seconds": round(run.state.seconds, 3)} | values
        with (run.run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in entry.items()}) + "\n")
    run.accelerator.log(values, step=run.state.step)


def _cut_metrics(run_dir: Path, step: int) -> None:
    """Drop the lines of steps that will be done again."""
    path = run_dir / "metrics.jsonl"
    if path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        write_file(path, "".join(line for line in lines if json.loads(line)["step"] <= step))


def _best(state: TrainState) -> str:
    return "" if state.best is None else f"best validation {state.best:.3f}"


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that gets the number of each SIGINT or SIGTERM that comes; a second one acts at once."""
    received: list[int] = []

    def receive(signum: int, frame: Any) -> None:
        received.append(signum)
        signal.signal(signum, signal.SIG_DFL if signum == signal.SIGTERM else signal.default_int_handler)

    old = {signum: signal.signal(signum, receive) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
