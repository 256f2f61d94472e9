"""A training, opened: configuration, data, flow, optimizers, and where its checkpoint left it."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam, Optimizer

from realnvp.bijections import ActNorm, Chain, data_dependent_init
from realnvp.bijections.base import float64_like
from realnvp.config.fields import MAY_CHANGE, Config, ImageData, TableData, TrainConfig
from realnvp.config.json import differences
from realnvp.config.resolve import resolve
from realnvp.data.dataset import SPLITS, Dataset
from realnvp.data.prepared import discard_prepared, prepare
from realnvp.device import as_tensor, has_bfloat16
from realnvp.evaluation.likelihood import Unit, unit_of
from realnvp.flows.build import build, matrices
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, config_of, initialize_from
from realnvp.io.files import lock_folder
from realnvp.io.pretrained import checkpoints_in, load_flow
from realnvp.io.run_dir import RunDir, TrainState, load_checkpoint, save_checkpoint
from realnvp.random import Purpose
from realnvp.training.batches import Batches
from realnvp.training.optim import Muon, WeightAverage, enable_gradient_checkpointing
from realnvp.training.session import (
    Log,
    Processes,
    TrainingStopped,
    begin_session,
    joined_processes,
    tracking,
)


@dataclass
class Run:
    """A training: its objects, and its state."""

    config: Config  # resolved by the data
    files: RunDir
    splits: Dataset
    batches: Batches
    flow: Flow
    model: Any  # the flow, wrapped for several processes
    optimizers: list[Optimizer]
    average: WeightAverage
    processes: Processes
    precision: str  # of the networks: float32, float64 or bfloat16
    state: TrainState = field(default_factory=TrainState)
    stop: list[int] = field(default_factory=list)  # the signals that have come to this process
    failed_in_a_row: int = 0
    step_seconds: float = 0.0
    log_curves: Log = lambda values, step: None
    saved_at: float = 0.0  # seconds of training at the last checkpoint

    @property
    def main(self) -> bool:
        return self.processes.main

    @property
    def unit(self) -> Unit:
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
        patience = self.config.train.patience or math.inf
        impatient = self.state.evaluations_since_best >= patience
        return (self.progress >= 1 or impatient) and not self.state.pending

    def load(self) -> None:
        """Go to the newest checkpoint, if there is one."""
        parts = self.flow, self.optimizers, self.average.tensors
        self.state = load_checkpoint(self.files.path, *parts)
        self.saved_at = self.state.training_seconds

    def save(self) -> None:
        """Write a checkpoint."""
        self.saved_at = self.state.training_seconds
        parts = self.flow, self.optimizers, self.average.tensors
        if self.main:
            save_checkpoint(self.files.path, self.state, *parts)
        self.processes.wait()

    def heed_signals(self) -> None:
        """Raise TrainingStopped if a signal has come to one of the processes."""
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

    Arguments and errors: see `train`.
    """
    files = RunDir(run_dir)
    if config.data.source:  # valid in any current folder
        source = str(Path(config.data.source).expanduser().absolute())
        config = replace(config, data=replace(config.data, source=source))
    with joined_processes(device, config.train.timeout) as processes:
        where = Path(config.data.source).resolve() if config.data.source else None
        if where in (files.path.resolve(), files.data.resolve()):
            raise ValueError(f"{files.path}: is also data.source; choose another run directory")
        if not files.begun and files.metrics_file.exists():
            raise ValueError(f"{files.metrics_file}: is not of this training")
        with lock_folder(files.path) if processes.main else nullcontext():
            try:
                run = _opened(config, files, processes, init_from)
            except BaseException:
                if processes.main and not files.begun:
                    discard_prepared(files.data)
                raise
            curves = tracking(run.config, files.path, step=run.state.step)
            with curves if run.main else nullcontext(run.log_curves) as run.log_curves:
                yield run


def _opened(
    config: Config, files: RunDir, processes: Processes, init_from: str | Path | None
) -> Run:
    """The training at its last checkpoint or its start; the first process writes its files."""
    if not processes.main:
        processes.wait()  # until the first has prepared the data
    verify = SPLITS if processes.main else ()
    splits = prepare(config.data, seed=config.seed, folder=files.data, verify=verify)
    if processes.main:
        processes.wait()
    files.check_data(splits.folder, splits.sha256)
    if resumed := bool(checkpoints_in(files.path)):
        init_from = None
    run = assemble(config, files, splits, processes, init_from)
    if files.begun and files.config_file.exists():
        changed = {*differences(files.config, run.config)} - MAY_CHANGE
        if changed:
            names = ", ".join(sorted(changed))
            raise ValueError(f"{files.config_file}: the run has other values of {names}")
    if resumed:
        run.load()
    elif init_from is not None:
        run.save()
    if processes.main:
        begin_session(
            run.config,
            files,
            run.state,
            device=str(processes.device),
            processes=processes.count,
            precision=run.precision,
            data=dict(splits.sha256),
            init_from=None if init_from is None else str(init_from),
        )
    return run


def assemble(
    config: Config,
    files: RunDir,
    splits: Dataset,
    processes: Processes,
    init_from: str | Path | None,
) -> Run:
    """A training at its start."""
    columns, names = splits.columns, splits.class_names
    config = resolve(config, splits.shape, columns, names, decided=splits.decided)
    recipe, device, labels = config.train, processes.device, (splits.labels or {}).get("train")
    part = {"process": processes.rank, "processes": processes.count}
    batches = Batches(splits.train, config, device=device, labels=labels, **part)
    flow = build(config)
    if init_from is not None:
        take_weights(flow, load_flow(init_from), init_from)
    if recipe.gradient_checkpointing:
        enable_gradient_checkpointing(flow)
    if recipe.precision == "float64":
        flow.double()
    optimizers = _optimizers(flow, recipe, fused=device.type in ("cpu", "cuda"))
    flow.to(device)
    if isinstance(flow.condition, Classes) and labels is not None:
        flow.condition.count(torch.from_numpy(labels))
    if init_from is None:
        _initialize_from_data(flow, splits, batches)
    model, average = processes.wrap(flow.train()), WeightAverage(flow, recipe.ema_decay)
    parts = config, files, splits, batches, flow, model, optimizers, average, processes
    fast = "bfloat16" if has_bfloat16(device) else "float32"
    precision = fast if recipe.precision == "auto" else recipe.precision
    # Of few rows the Gaussian that a flow starts as may be the best model: evaluate it.
    return Run(*parts, precision, TrainState(pending=isinstance(config.data, TableData)))


def _initialize_from_data(flow: Flow, splits: Dataset, batches: Batches) -> None:
    """Initialize layers: from all of a table, of images from the first 128 or so."""
    if isinstance(config_of(flow).data, TableData):
        rows = as_tensor(splits.train[:]).to(float64_like(flow))
        initialize_from(flow, rows, (splits.labels or {}).get("train"))
    elif any(isinstance(module, ActNorm) for module in flow.modules()):
        first = range(-(-128 // batches.size))
        with data_dependent_init(flow), torch.no_grad():
            x = torch.cat([batches.at(i, Purpose.MOMENTS) for i in first])
            flow.log_prob(x, *batches.condition_on(first))


def _optimizers(flow: Flow, recipe: TrainConfig, *, fused: bool) -> list[Optimizer]:
    """Adam, for all weights (section 4.1) or for those that are left when Muon has the matrices."""
    if recipe.muon_lr is None:
        return [Adam(flow.parameters(), lr=recipe.lr, fused=fused)]
    of_muon = matrices(flow)
    rest = [weight for weight in flow.parameters() if weight not in {*of_muon}]
    muon = Muon(of_muon, lr=recipe.muon_lr, weight_decay=recipe.muon_weight_decay)
    return [Adam(rest, lr=recipe.lr, fused=fused), muon]


def take_weights(flow: Flow, start: Flow, where: str | Path) -> None:
    """Give the flow the weights of another flow, from `where`. ValueError: they do not fit.

    A conditional flow of images may start with one that is not conditional, and learned noise with
    uniform noise: the new weights are zero, so the density is the same at first.
    """
    here, there = config_of(flow), config_of(start)
    if (len(there.shape), there.shape[0]) != (len(here.shape), here.shape[0]):
        raise ValueError(f"{where}: has data of shape {there.shape}, not {here.shape}")
    free = set()
    if isinstance(here.data, ImageData) and not there.model.context_dim:
        free.add("model.context_dim")
    if here.model.dequantization == "learned":
        free.add("model.dequantization")
    changed = {name for name in differences(there, here) if name.startswith("model.")} - free
    if changed:
        raise ValueError(f"{where}: differs in {', '.join(sorted(changed))}")
    assert isinstance(flow.bijection, Chain)
    assert isinstance(start.bijection, Chain)
    weights = flow.state_dict()
    # Learned noise is one more layer, the first.
    more = len(flow.bijection.bijections) - len(start.bijection.bijections)
    layer = re.compile(r"^(bijection\.bijections\.)(\d+)\.")
    for name, weight in start.state_dict().items():
        name = layer.sub(lambda m: f"{m[1]}{int(m[2]) + more}.", name)
        if weight.shape != weights[name].shape:  # the last layer has more outputs now
            missing = len(weights[name]) - len(weight)
            weight = torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])])
        weights[name] = weight
    flow.load_state_dict(weights)
