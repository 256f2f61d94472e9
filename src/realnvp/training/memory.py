"""How much memory a training will take, without taking it."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from realnvp.config import Config, least_parameters, resolve
from realnvp.config.errors import in_bytes
from realnvp.flows.build import build
from realnvp.flows.flow import Flow, config_of
from realnvp.training.checkpointing import Layer, once, recompute

if sys.platform != "win32":
    import resource


CROP = 64  # pixels; a side that most machines can train at


def count_parameters(config: Config) -> int:
    """How many numbers the flow of a configuration learns; allocates none of them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may have: of the machine, its control groups, its address space.

    root: where the system's files are.
    """
    limits = [*_of_control_groups(root)]
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if (
        sys.platform != "win32"
        and (address_space := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY
    ):
        limits.append(address_space)
    return min(limits, default=2**63)


def memory_of(device: torch.device) -> int:
    """Bytes that a training may take on a device: all of a GPU; of a CPU, `memory_limit`."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_limit()


def memory_used(device: torch.device) -> int:
    """Bytes that this process has had at most on a device. 0: the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _of_control_groups(root: Path) -> Iterator[int]:
    """The limits of this process's control groups, versions 1 and 2, and of the groups above them.

    Containers and batch systems set them. In a container a group's path may be the host's, while
    the container's own limit stands at the top of what is mounted.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        mounted, name = (
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            if controllers
            else ("sys/fs/cgroup", "memory.max")
        )
        group = PurePosixPath(path.lstrip("/"))
        for part in (group, *group.parents):
            try:
                text = (root / mounted / part / name).read_text().strip()
            except OSError:
                continue
            if (
                text.isdecimal()
            ):  # else "max"; without a limit version 1 has a number beyond all memory
                yield int(text)


def check_memory(
    config: Config, device: torch.device, *, processes: int = 1, limit: int | None = None
) -> None:
    """ValueError: a training of this (resolved) configuration takes more memory than there is.

    limit: bytes. None: `memory_of` the device.
    """
    if limit is None:
        limit = memory_of(device)
    images, model = config.train.batch_size // processes, config.model
    rough = 64 * least_parameters(config) + 400 * images * prod(config.shape) * model.width * (
        1 + model.num_blocks
    )
    if rough < limit:  # far more than it takes; counting takes seconds
        return
    if (needed := _needed(config, processes)) > limit:
        raise ValueError(
            "model.width, model.num_blocks, train.batch_size: a training needs about "
            f"{needed / 2**30:,.1f} GiB of memory, {device} has {limit / 2**30:,.1f} GiB"
            + _what_fits(config, needed, processes, limit)
        )


def _needed(config: Config, processes: int) -> int:
    """Bytes that each of several processes needs."""
    # A save holds weights, Adam's two moments and the average, as copies and as bytes, too.
    return max(_needed_by_steps(config, processes), 48 * count_parameters(config))


def _needed_by_steps(config: Config, processes: int) -> int:
    images = config.train.batch_size // processes
    return training_memory(replace(config, train=replace(config.train, batch_size=images)))


def _what_fits(config: Config, needed: int, processes: int, limit: int) -> str:
    """'; it fits with ...': what needs less, for the same model or its like. '': nothing does."""
    train = config.train
    ways = {
        "train.gradient_checkpointing": replace(
            config, train=replace(train, gradient_checkpointing=True)
        )
    }
    if size := _smaller_batch(config, needed, processes, limit):
        ways[f"train.batch_size {size}"] = replace(config, train=replace(train, batch_size=size))
    if crops := _of_crops(config):
        ways[f"data.crop {CROP}"] = crops
    needs = {words: _needed(smaller, processes) for words, smaller in ways.items()}
    found = [f"{words} ({in_bytes(need)})" for words, need in needs.items() if need <= limit]
    return f"; it fits with {' or '.join(found)}" if found else ""


def _smaller_batch(config: Config, needed: int, processes: int, limit: int) -> int:
    """The largest half, quarter, ... of the batch that fits. 0: none does.

    By a line from the smallest to the whole batch, since counting takes seconds. needed: whole.
    """
    whole = config.train.batch_size
    halves = [whole >> times for times in range(1, 12)]
    sizes = [size for size in halves if size and size % processes == 0]
    if not sizes:
        return 0
    least, train = sizes[-1], replace(config.train, batch_size=sizes[-1])
    base = _needed_by_steps(replace(config, train=train), processes)
    each = (needed - base) / (whole - least)
    return next((size for size in sizes if base + (size - least) * each <= limit), 0)


def _of_crops(config: Config) -> Config | None:
    """A (resolved) configuration of pieces of its images. None: they are small, or no files."""
    channels, *sides = config.shape
    if config.data.set != "images" or config.data.crop or min(sides) <= CROP:
        return None
    data = replace(config.data, shape=(channels, CROP, CROP))
    model = replace(config.model, num_scales=None)
    return resolve(replace(config, data=data, model=model), (channels, CROP, CROP))


def training_memory(config: Config) -> int:
    """Estimate the bytes that a training of this (resolved) configuration takes at most.

    Of a single process: weights, gradients, Adam's two moments, and the tensors that autograd keeps
    of one forward pass, counted on tensors without storage.
    """
    parts: list[tuple[Layer, tuple[Tensor, ...]]] = []
    with torch.device("meta"):
        flow = build(config).train()
        weights = sum(tensor.numel() for tensor in flow.parameters()) * 4
        inputs = example_of(flow, config.train.batch_size)
        if config.train.gradient_checkpointing:
            for module in recompute(flow).modules():
                if isinstance(module, Layer):
                    module.register_forward_pre_hook(
                        lambda part, args: parts.append((part, tuple(x.detach() for x in args)))
                    )
        kept = _kept_for_gradient(flow.log_prob, *inputs)
        if parts:  # all keep their inputs; one at a time is computed again, and keeps everything
            kept += sum(x.nbytes for _, (x, *_) in parts) + max(
                _kept_for_gradient(once(part), *inputs) for part, inputs in parts
            )
    if config.train.precision == "float64":
        return 2 * (4 * weights + kept)
    # Nearly all that is kept lies in the networks, which may compute in bfloat16.
    return 4 * weights + (kept // 2 if config.train.precision == "bfloat16" else kept)


def example_of(flow: Flow, count: int) -> tuple[Tensor, ...]:
    """What `flow.log_prob` takes, without values: x, (count, ...), and conditions if any."""
    x = torch.empty(count, *config_of(flow).shape)
    return (x,) if flow.condition is None else (x, flow.condition.example(x))


def _kept_for_gradient(function: Callable[..., object], *inputs: Tensor) -> int:
    """Bytes of the tensors that autograd keeps of function(*inputs)."""
    kept: dict[int, int] = {}
    tensors: list[Tensor] = []  # keeps them alive, so that no two have the same address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        tensors.append(tensor)
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(*inputs)
    return sum(kept.values())
