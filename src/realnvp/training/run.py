"""A training, opened: what it works with, and where its last checkpoint left it."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from realnvp.bijections import ActNorm, data_dependent_init
from realnvp.config import Config, Kind, TrainConfig, least_parameters, resolve, validate
from realnvp.config.units import Unit, unit_of
from realnvp.data import Dataset, find_data, prepare
from realnvp.data.dataset import SPLITS
from realnvp.device import has_bfloat16
from realnvp.flows.build import build
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, config_of
from realnvp.flows.modern import matrices, standardize
from realnvp.io.checkpoint import TrainState, checkpoints_in, load_checkpoint, save_checkpoint
from realnvp.io.files import lock_folder
from realnvp.io.pretrained import load_flow
from realnvp.io.run_dir import RunDir
from realnvp.progress import progress
from realnvp.random import Purpose
from realnvp.training.batches import Batches
from realnvp.training.checkpointing import recompute
from realnvp.training.fine_tune import take_weights
from realnvp.training.memory import check_memory
from realnvp.training.optim import Muon, WeightAverage
from realnvp.training.session import (
    TrainingStopped,
    begin_sitting,
    check_data,
    check_may_train,
    data_kept_if_begun,
    earlier_sittings,
    joined_processes,
)
from realnvp.training.trackers import start_tracker

LARGE = 50_000_000  # parameters, to draw which takes seconds


@dataclass
class Run:
    """A training: configuration, data, flow, optimisers, and where it stands."""

    config: Config
    files: RunDir
    splits: Dataset
    batches: Batches
    flow: Flow
    model: Any
    """The flow, wrapped for several processes."""
    optimizers: list[torch.optim.Optimizer]
    average: WeightAverage
    accelerator: Accelerator
    state: TrainState
    precision: str
    """In which the networks compute: float32, float64 or bfloat16."""
    stop: list[int] = field(default_factory=list)
    """The signals to stop that have come to this process."""
    failed_in_a_row: int = 0
    step_seconds: float = 0.0
    saved_at: float = field(init=False)
    """Seconds of training at the last checkpoint."""
    tell: Callable[[str], None] = lambda doing: None
    """Takes what the training does beside steps, in a few words, for people."""

    def __post_init__(self) -> None:
        self.saved_at = self.state.training_seconds

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks for all."""
        return bool(self.accelerator.is_main_process)

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
        self.accelerator.wait_for_everyone()

    def heed_signals(self) -> None:
        """TrainingStopped if a signal has come to one of the processes."""
        signum = max(self.stop, default=0)
        if self.accelerator.num_processes > 1:
            mine = torch.full((1,), signum, device=self.accelerator.device)
            signum = int(self.accelerator.gather(mine).max())
        if signum:
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
    files = RunDir(run_dir)
    config = validate(_with_absolute_source(config, files))
    with joined_processes(config.train, files.path, device) as accelerator:
        check_may_train(config, files)
        main = accelerator.is_main_process
        with lock_folder(files.path) if main else nullcontext():
            with data_kept_if_begun(files) if main else nullcontext():
                run = _opened(config, files, accelerator, init_from)
            yield run


def _with_absolute_source(config: Config, files: RunDir) -> Config:
    """The configuration of a run that can be looked at from any folder.

    Where data.source names the folder that the run began with, the first way to write it stays.
    """
    if not config.data.source:
        return config
    source = str(Path(config.data.source).expanduser().absolute())
    if files.begun and files.config_file.exists():
        begun = files.config.data.source
        if begun and os.path.realpath(begun) == os.path.realpath(source):
            source = begun
    return replace(config, data=replace(config.data, source=source))


def _opened(
    config: Config, files: RunDir, accelerator: Accelerator, init_from: str | Path | None
) -> Run:
    main = accelerator.is_main_process
    with accelerator.main_process_first():
        splits = prepare(
            config.data, seed=config.seed, folder=files.data, verify=SPLITS if main else ()
        )
    check_data(files, splits)
    new = not checkpoints_in(files.path)
    if not new and init_from is not None and main and str(init_from) != files.init_from:
        warnings.warn(f"--init-from: {files.path} goes on from its own checkpoint", stacklevel=2)
    run = _assembled(config, files, splits, accelerator, init_from)
    _begin(run, init_from if new else None)
    return run


@contextmanager
def rehearsed_run(
    config: Config,
    run_dir: str | Path,
    *,
    device: str = "auto",
    init_from: str | Path | None = None,
) -> Iterator[Run]:
    """Context: what `open_run` would open, while nothing is written. The same is refused."""
    files = RunDir(run_dir)
    config = validate(_with_absolute_source(config, files))
    with joined_processes(config.train, files.path, device) as accelerator:
        check_may_train(config, files)
        splits = find_data(config.data, seed=config.seed)
        check_data(files, splits)
        yield _assembled(config, files, splits, accelerator, init_from)


def _assembled(
    config: Config,
    files: RunDir,
    splits: Dataset,
    accelerator: Accelerator,
    init_from: str | Path | None,
) -> Run:
    """The parts of a training, where its last checkpoint or its start has them."""
    device, processes = accelerator.device, accelerator.num_processes
    config = resolve(
        config, splits.shape, splits.columns, splits.class_names, decided=splits.decided
    )
    check_memory(config, device, processes=processes)
    batches = Batches(
        splits.train,
        config,
        device=device,
        process=accelerator.process_index,
        processes=processes,
        labels=(splits.labels or {}).get("train"),
    )
    new = not checkpoints_in(files.path)
    flow = _initial_flow(config, init_from if new else None)
    optimizers = _optimizers(flow, config.train, fused=device.type in ("cpu", "cuda"))
    flow.to(device)
    if isinstance(flow.condition, Classes) and splits.labels is not None:
        flow.condition.count(torch.from_numpy(splits.labels["train"]))
    if new and init_from is None:
        _start_from_data(flow, splits, batches)
    average = WeightAverage(flow, config.train.ema_decay)
    state = load_checkpoint(files.path, flow=flow, optimizers=optimizers, averages=average.tensors)
    # Of few rows the Gaussian that a flow starts as may be the best model: evaluate it.
    state.pending = state.pending or (new and config.kind is Kind.TABLE)
    with warnings.catch_warnings():
        # torch 2.13 renames an option, to a name that older ones do not know.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        model = accelerator.prepare(flow)
    flow.train()
    return Run(
        config,
        files,
        splits,
        batches,
        flow,
        model,
        optimizers,
        average,
        accelerator,
        state,
        precision_on(config.train, device),
    )


def _begin(run: Run, init_from: str | Path | None) -> None:
    """Begin a sitting in the run directory.

    init_from: the flow whose weights the run has; a checkpoint keeps them for a resumed training.
    """
    past = earlier_sittings(run.files, run.state) if run.main else ([], [])
    start_tracker(run.accelerator, run.config, run.files.path, step=run.state.step)
    if init_from is not None:
        run.save()
    if not run.main:
        return
    device = run.accelerator.device
    changes = begin_sitting(
        run.config,
        run.files,
        run.state,
        past,
        device="cpu" if device.type == "cpu" else str(device),  # torchrun's is called cpu:0
        processes=run.accelerator.num_processes,
        precision=run.precision,
        data=dict(run.splits.sha256),
        init_from=None if init_from is None else str(init_from),
    )
    if changes and not run.finished:
        warnings.warn(
            f"{run.files.path}: {', '.join(changes)}: "
            "it goes on, but not to the bit as it would have",
            stacklevel=2,
        )


def precision_on(recipe: TrainConfig, device: torch.device) -> str:
    """The arithmetic of the networks; auto: what is fast on this device."""
    fast = "bfloat16" if has_bfloat16(device) else "float32"
    return fast if recipe.precision == "auto" else recipe.precision


def _start_from_data(flow: Flow, splits: Dataset, batches: Batches) -> None:
    """Start layers from the data: of a table all of it, of images the first 128 or so."""
    if config_of(flow).kind is Kind.TABLE:
        standardize(flow, splits.train[:], context=(splits.labels or {}).get("train"))
    elif any(isinstance(module, ActNorm) for module in flow.modules()):
        first = range(-(-128 // batches.size))
        with data_dependent_init(flow), torch.no_grad():
            x = torch.cat([batches.at(i, Purpose.MOMENTS) for i in first])
            flow.log_prob(x, *batches.condition_on(first))


def _optimizers(flow: Flow, recipe: TrainConfig, *, fused: bool) -> list[torch.optim.Optimizer]:
    """Adam, for all weights (section 4.1) or for those that are left when Muon has the matrices."""
    if recipe.muon_lr is None:
        return [torch.optim.Adam(flow.parameters(), lr=recipe.lr, fused=fused)]
    context = matrices(flow)
    rest = [weight for weight in flow.parameters() if weight not in {*context}]
    return [
        torch.optim.Adam(rest, lr=recipe.lr, fused=fused),
        Muon(context, lr=recipe.muon_lr, weight_decay=recipe.muon_weight_decay),
    ]


def _initial_flow(config: Config, init_from: str | Path | None) -> Flow:
    """A new flow on the CPU, with the weights of another one where it is named."""
    large = least_parameters(config) > LARGE
    with progress("drawing the flow's first weights", 0, enabled=large):
        flow = build(config)
    if init_from is not None:
        take_weights(flow, load_flow(init_from), init_from)
    if config.train.gradient_checkpointing:
        recompute(flow)
    return flow.double() if config.train.precision == "float64" else flow
