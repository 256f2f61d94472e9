"""A training, opened: configuration, data, flow, optimizers, and where its checkpoint left it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from realnvp.bijections import ActNorm, data_dependent_init
from realnvp.bijections.base import float64_like
from realnvp.config import Config, TableData, TrainConfig, resolve
from realnvp.config.units import Unit, unit_of
from realnvp.data import Dataset, discard_prepared, find_data, prepare
from realnvp.data.dataset import SPLITS
from realnvp.device import as_tensor, has_bfloat16
from realnvp.flows.build import build, matrices
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, config_of, initialize_from
from realnvp.io.checkpoint import TrainState, checkpoints_in, load_checkpoint, save_checkpoint
from realnvp.io.files import lock_folder
from realnvp.io.pretrained import load_flow
from realnvp.io.run_dir import RunDir
from realnvp.random import Purpose
from realnvp.training.batches import Batches
from realnvp.training.checkpointing import recompute
from realnvp.training.fine_tune import take_weights
from realnvp.training.optim import Muon, WeightAverage
from realnvp.training.processes import Processes, joined_processes
from realnvp.training.session import (
    TrainingStopped,
    begin_session,
    check_run_dir,
    check_unchanged,
)
from realnvp.training.trackers import Log, tracking


@dataclass
class Run:
    """A training: what it works with, and where it stands."""

    config: Config
    """Resolved by the data."""
    files: RunDir
    splits: Dataset
    batches: Batches
    flow: Flow
    model: Any
    """The flow, wrapped for several processes."""
    optimizers: list[torch.optim.Optimizer]
    average: WeightAverage
    processes: Processes
    state: TrainState
    precision: str
    """In which the networks compute: float32, float64 or bfloat16."""
    stop: list[int] = field(default_factory=list)
    """The signals to stop that have come to this process."""
    failed_in_a_row: int = 0
    step_seconds: float = 0.0
    log_curves: Log = lambda values, step: None
    saved_at: float = field(init=False)
    """Seconds of training at the last checkpoint."""

    def __post_init__(self) -> None:
        self.saved_at = self.state.training_seconds

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.processes.main

    @property
    def unit(self) -> Unit:
        """What log-densities are reported in."""
        return unit_of(self.config)

    @property
    def progress(self) -> float:
        """The share of the steps or of the minutes that is done, whichever is more."""
        train, state = self.config.train, self.state
        steps = state.step / train.max_steps if train.max_steps else 0.0
        minutes = state.training_seconds / 60 / train.max_minutes if train.max_minutes else 0.0
        return max(steps, minutes)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        patience = self.config.train.patience
        impatient = bool(patience and self.state.evaluations_since_best >= patience)
        return (self.progress >= 1 or impatient) and not self.state.pending

    def save(self) -> None:
        """Write a checkpoint."""
        self.saved_at = self.state.training_seconds
        if self.main:
            save_checkpoint(
                self.files.path,
                self.state,
                flow=self.flow,
                optimizers=self.optimizers,
                averages=self.average.tensors,
            )
        self.processes.wait()

    def heed_signals(self) -> None:
        """TrainingStopped: a signal has come to one of the processes."""
        mine = torch.tensor(max(self.stop, default=0), device=self.processes.device)
        if signum := int(self.processes.gather(mine).max()):
            raise TrainingStopped(signum, self.state.step)


@contextmanager
def open_run(
    config: Config,
    run_dir: str | Path,
    *,
    device: str = "auto",
    init_from: str | Path | None = None,
) -> Iterator[Run]:
    """Context: the training of run_dir, at its last checkpoint or its start; others are locked out.

    init_from: a run or saved flow whose weights a new training starts with.
    ValueError: bad input, or the run directory is another training's. DamagedError: a file of it.
    TrainingFailed: another process is gone.
    """
    files, config = RunDir(run_dir), _with_absolute_source(config)
    with joined_processes(device, config.train.timeout) as processes:
        check_run_dir(config, files)
        with lock_folder(files.path) if processes.main else nullcontext():
            if not processes.main:
                processes.wait()  # for the data
            elif not files.begun:
                discard_prepared(files.data)  # of a training that failed before its first step
            splits = prepare(
                config.data,
                seed=config.seed,
                folder=files.data,
                verify=SPLITS if processes.main else (),
            )
            if processes.main:
                processes.wait()
            if changed := files.changed_data(splits.folder, splits.sha256):
                raise ValueError(changed)
            init_from = None if checkpoints_in(files.path) else init_from
            run = assemble(config, files, splits, processes, init_from)
            curves = tracking(run.config, files.path, step=run.state.step)
            with curves if run.main else nullcontext(run.log_curves) as run.log_curves:
                _begin(run, init_from)
                yield run


def _with_absolute_source(config: Config) -> Config:
    """The configuration with a data.source that is valid in any current folder."""
    if not config.data.source:
        return config
    source = str(Path(config.data.source).expanduser().absolute())
    return replace(config, data=replace(config.data, source=source))


def assemble(
    config: Config,
    files: RunDir,
    splits: Dataset,
    processes: Processes,
    init_from: str | Path | None,
) -> Run:
    """A training at its last checkpoint, else at its start."""
    config = resolve(
        config, splits.shape, splits.columns, splits.class_names, decided=splits.decided
    )
    check_unchanged(config, files)
    device = processes.device
    batches = Batches(
        splits.train,
        config,
        device=device,
        process=processes.rank,
        processes=processes.count,
        labels=(splits.labels or {}).get("train"),
    )
    flow = _initial_flow(config, init_from)
    optimizers = _optimizers(flow, config.train, fused=device.type in ("cpu", "cuda"))
    flow.to(device)
    if isinstance(flow.condition, Classes) and splits.labels is not None:
        flow.condition.count(torch.from_numpy(splits.labels["train"]))
    new = not checkpoints_in(files.path)
    if new and init_from is None:
        _start_from_data(flow, splits, batches)
    average = WeightAverage(flow, config.train.ema_decay)
    state = load_checkpoint(files.path, flow=flow, optimizers=optimizers, averages=average.tensors)
    # Of few rows the Gaussian that a flow starts as may be the best model: evaluate it.
    state.pending = state.pending or (new and isinstance(config.data, TableData))
    return Run(
        config,
        files,
        splits,
        batches,
        flow,
        processes.wrap(flow.train()),
        optimizers,
        average,
        processes,
        state,
        precision_on(config.train, device),
    )


@contextmanager
def dry_run(
    config: Config,
    run_dir: str | Path,
    *,
    device: str = "auto",
    init_from: str | Path | None = None,
) -> Iterator[Run]:
    """Context: what `open_run` would open; nothing is written. The same input is refused."""
    files, config = RunDir(run_dir), _with_absolute_source(config)
    with joined_processes(device, config.train.timeout) as processes:
        check_run_dir(config, files)
        splits = find_data(config.data, seed=config.seed)
        yield assemble(config, files, splits, processes, init_from)


def _begin(run: Run, init_from: str | Path | None) -> None:
    """Begin a session in the run directory; a checkpoint keeps the weights of `init_from`."""
    if init_from is not None:
        run.save()
    if not run.main:
        return
    begin_session(
        run.config,
        run.files,
        run.state,
        device=str(run.processes.device),
        processes=run.processes.count,
        precision=run.precision,
        data=dict(run.splits.sha256),
        init_from=None if init_from is None else str(init_from),
    )


def precision_on(recipe: TrainConfig, device: torch.device) -> str:
    """The arithmetic of the networks; auto: what is fast on this device."""
    fast = "bfloat16" if has_bfloat16(device) else "float32"
    return fast if recipe.precision == "auto" else recipe.precision


def _start_from_data(flow: Flow, splits: Dataset, batches: Batches) -> None:
    """Start layers from the data: of a table all of it, of images the first 128 or so."""
    if isinstance(config_of(flow).data, TableData):
        rows = as_tensor(splits.train[:]).to(float64_like(flow))
        initialize_from(flow, rows, (splits.labels or {}).get("train"))
    elif any(isinstance(module, ActNorm) for module in flow.modules()):
        first = range(-(-128 // batches.size))
        with data_dependent_init(flow), torch.no_grad():
            x = torch.cat([batches.at(i, Purpose.MOMENTS) for i in first])
            flow.log_prob(x, *batches.condition_on(first))


def _optimizers(flow: Flow, recipe: TrainConfig, *, fused: bool) -> list[torch.optim.Optimizer]:
    """Adam, for all weights (section 4.1) or for those that are left when Muon has the matrices."""
    if recipe.muon_lr is None:
        return [torch.optim.Adam(flow.parameters(), lr=recipe.lr, fused=fused)]
    of_muon = matrices(flow)
    rest = [weight for weight in flow.parameters() if weight not in {*of_muon}]
    return [
        torch.optim.Adam(rest, lr=recipe.lr, fused=fused),
        Muon(of_muon, lr=recipe.muon_lr, weight_decay=recipe.muon_weight_decay),
    ]


def _initial_flow(config: Config, init_from: str | Path | None) -> Flow:
    """A new flow on the CPU, with the weights of another flow where it is named."""
    flow = build(config)
    if init_from is not None:
        take_weights(flow, load_flow(init_from), init_from)
    if config.train.gradient_checkpointing:
        recompute(flow)
    return flow.double() if config.train.precision == "float64" else flow
