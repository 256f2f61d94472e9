"""What a training works with and where it begins, as its configuration and its last checkpoint say; not the loop."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs

from realnvp.bijections import ActNorm, starting
from realnvp.config import Config, Kind, TrainConfig, differences, resolve
from realnvp.config.units import Unit, unit_of
from realnvp.data import Splits, prepare
from realnvp.data.dataset import SPLITS
from realnvp.device import has_bfloat16, pick_device
from realnvp.files.checkpoint import TrainState, load_checkpoint, save_checkpoint
from realnvp.files.folders import lock_folder, numbered
from realnvp.files.saved import load_flow
from realnvp.flows.build import build
from realnvp.flows.flow import Flow, config_of
from realnvp.flows.modern import matrices
from realnvp.flows.vector import standardise
from realnvp.noise import Purpose
from realnvp.training.batches import Batches
from realnvp.training.memory import check_memory
from realnvp.training.muon import Muon
from realnvp.training.optimisation import WeightAverage
from realnvp.training.recompute import recompute
from realnvp.training.run_dir import check_claim, check_data, claim, data_of_unbegun, past_of
from realnvp.training.trackers import check_tracker, start_tracker


@dataclass
class Run:
    """A training: configuration, data, flow, optimisers, and where it stands."""

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
    precision: str
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
        steps = state.step / train.max_steps if train.max_steps else 0.0
        minutes = state.training_seconds / 60 / train.max_minutes if train.max_minutes else 0.0
        return max(steps, minutes)


def start(config: Config, run_dir: Path, *, device: str, init_from: str | Path | None, stack: ExitStack) -> Run:
    """Everything that a training works with, as its last checkpoint says; the stack holds run_dir's lock."""
    accelerator = _accelerator(config, run_dir, device, stack)
    check_claim(config, run_dir)
    if accelerator.is_main_process:
        stack.enter_context(lock_folder(run_dir))
        stack.enter_context(data_of_unbegun(run_dir))
        prepare(config.data, seed=config.seed, folder=run_dir / "data", verify=SPLITS)
    accelerator.wait_for_everyone()
    splits = prepare(config.data, seed=config.seed, folder=run_dir / "data")
    check_data(run_dir, splits)
    config = resolve(config, splits.shape, splits.columns)
    rank, processes = accelerator.process_index, accelerator.num_processes
    check_memory(config, accelerator.device, processes=processes)
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
    precision, changes = _precision(config.train, accelerator.device), []
    state, complaints = load_checkpoint(run_dir, flow=flow, optimizers=optimizers, average=average)
    if not begun and config.kind is Kind.TABLE:  # of few rows the Gaussian that it starts as may be the best model: evaluate it
        state.pending = True
    if accelerator.is_main_process:
        for complaint in complaints:
            warnings.warn(f"{complaint}; an older checkpoint is used", stacklevel=2)
        past = past_of(run_dir, state)
    start_tracker(accelerator, config, run_dir, step=state.step)
    if accelerator.is_main_process:
        if not begun and init_from is not None:  # first of all: whoever goes on here goes on from these weights
            save_checkpoint(run_dir, state, flow=flow, optimizers=optimizers, average=average)
        where = {"device": str(accelerator.device), "processes": processes, "precision": precision}
        changes = claim(config, run_dir, state, past, **where, data=dict(splits.sha256))
    with warnings.catch_warnings():  # torch 2.13 renames the option, to a name that older ones do not know
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        model, *prepared = accelerator.prepare(flow, *optimizers)
    flow.train()
    run = Run(config, run_dir, splits, batches, flow, model, prepared, average, accelerator, state, precision)
    if changes and not run.finished:
        warnings.warn(f"{run_dir}: {', '.join(changes)}: it goes on, but not to the bit as it would have", stacklevel=2)
    return run


def _precision(recipe: TrainConfig, device: torch.device) -> str:
    """The arithmetic of the networks: what the configuration says, of auto what it comes to on this device."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bfloat16" if has_bfloat16(device) else "float32"


def _accelerator(config: Config, run_dir: Path, device: str, stack: ExitStack) -> Accelerator:
    """Accelerate's view of the processes and their device; ValueError if they cannot work together on it."""
    place, processes = pick_device(device), int(os.environ.get("WORLD_SIZE", 1))
    check_tracker(config.train.tracker)
    if place.type == "mps" and config.train.precision == "float64":
        raise ValueError("train.precision: mps has no float64")
    if place.type == "cuda" and processes > 1:
        _check_one_gpu_each(place)
    elif place.index is not None:
        torch.cuda.set_device(place)  # Accelerate takes the current one
    if processes == 1:  # several have joined, and stay so
        stack.enter_context(_own_state())
    accelerator = Accelerator(
        cpu=place.type == "cpu",
        mixed_precision="no",  # `train_step` casts
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # else a variable of the environment decides
        log_with=None if config.train.tracker == "none" else config.train.tracker,
        project_dir=run_dir,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),  # moments are those of the global batch
            InitProcessGroupKwargs(timeout=timedelta(seconds=config.train.timeout)),
        ],
    )
    if accelerator.num_processes != processes:
        raise ValueError(f"--device: {place}: the {processes} processes cannot be joined on it")
    if device != "auto" and accelerator.device.type != place.type:
        variables = " and ".join(name for name in ("ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU") if name in os.environ)
        raise ValueError(f"--device: {place}, but {variables or 'Accelerate'} says {accelerator.device}")
    return accelerator


@contextmanager
def _own_state() -> Iterator[None]:
    """Within it Accelerate, which else keeps the device of its first use for all of the process, knows of none."""
    kept = [(kind._shared_state, dict(kind._shared_state)) for kind in (AcceleratorState, GradientState, PartialState)]
    for state, _ in kept:
        state.clear()
    try:
        yield
    finally:
        for state, before in kept:
            state.clear()
            state.update(before)


def _check_one_gpu_each(place: torch.device) -> None:
    """ValueError if the processes that a launcher started on this machine cannot have a GPU each."""
    if place.index is not None:
        raise ValueError(f"--device: {place}: of several processes each takes a GPU of its own; name cuda")
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if processes > gpus:
        raise ValueError(f"--nproc-per-node: {processes} processes, but this machine has {gpus} GPU{'s' * (gpus > 1)}; one each")


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
        optimizers.append(Muon(given, lr=recipe.muon_lr, weight_decay=recipe.muon_weight_decay))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def _initial_flow(config: Config, init_from: str | Path | None) -> Flow:
    flow = build(config)
    if init_from is not None:
        given = load_flow(init_from)
        fields = differences(config_of(given), config_of(flow))
        if changed := [name for name in fields if name.startswith(("data.shape", "model."))]:
            raise ValueError(f"{init_from}: its weights do not fit, since {', '.join(changed)} differs")
        flow.load_state_dict(given.state_dict())
    if config.train.recompute:
        recompute(flow)
    return flow.double() if config.train.precision == "float64" else flow
