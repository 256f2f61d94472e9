"""The device of a command, its arithmetic, and its memory."""

import ctypes
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

# What float32 is rounded to before a product, the general settings first: a setting that was never
# set follows a more general one.
_torch: Any = torch.backends
_PRECISIONS: tuple[Any, ...] = (
    *(_torch, _torch.cudnn, _torch.cuda.matmul, _torch.cudnn.conv, _torch.cudnn.rnn),
    *(_torch.mkldnn.matmul, _torch.mkldnn.conv, _torch.mkldnn.rnn),
)
_lock = RLock()
_users = 0  # threads in `full_precision`
_before: list[tuple[Any, str]] = []


def as_tensor(array: ArrayLike) -> Tensor:
    """A copy of an array, on the CPU, of any strides and byte order."""
    found = np.asarray(array)
    return torch.from_numpy(np.array(found, dtype=found.dtype.newbyteorder("=")))


def pick_device(name: str) -> torch.device:
    """The device of this name; auto: cuda if there is a GPU, else cpu. ValueError: not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name} is not available") from error
    return device


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device. A GPU computes on after the copy; this process does not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return pinned(tensor, device).to(device, non_blocking=True)
    return tensor.to(device)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Put a tensor into pinned memory, which a GPU fetches from on its own. CPU: as it is."""
    return tensor.pin_memory() if device.type == "cuda" and not tensor.is_pinned() else tensor


@contextmanager
def full_precision() -> Iterator[None]:
    """Context: no float32 is rounded to TF32 or bfloat16 on the way into a product.

    Once the last thread has left it, all settings are as they were.
    """
    global _users
    with _lock:
        _users += 1
        for setting in _PRECISIONS if _users == 1 else ():
            # The general settings are full by now: one that reads otherwise has its own value.
            if (value := setting.fp32_precision) != "ieee":
                _before.append((setting, value))
                setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            while _before and not _users:
                setting, value = _before.pop()
                setting.fp32_precision = value


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Context: operations on x compute in the type of their arguments."""
    # The meta device has no autocast.
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):  # to leave it takes 10 us
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def deterministic() -> Iterator[None]:
    """Context: cuDNN sums in a fixed order and chooses no algorithm by a stopwatch."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes faster in bfloat16 than in float32.

    Of CPUs: with AMX, or AMD's AVX512-BF16. Intel's AVX512-BF16 takes twice the time of float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    by_amd = processor().startswith("AMD") and torch.cpu._is_avx512_bf16_supported()
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or by_amd)


@cache
def processor() -> str:
    """The CPU's name, as 'AMD EPYC 7763 64-Core Processor'."""
    path = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.*)", path.read_text() if path.exists() else "", re.M)
    return name[1] if name else platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Keep freed memory in this process, for the activations of the next step.

    Otherwise it goes back to Linux, which clears it again for each step. For programs that only
    compute, such as the commands: other processes get the memory when this process ends.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 32 * 2**20)  # the most that glibc takes
        libc.mallopt(trim_threshold, -1)  # never
