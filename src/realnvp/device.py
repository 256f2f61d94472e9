"""Which device a command computes on, how exactly, and when its memory is not enough."""

import ctypes
import os
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

from realnvp.config.errors import ParameterError


class Lock:
    """Context: one thread at a time. A process that was forked meanwhile finds it open."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        # A generator that garbage collection ends may come back to a lock that its thread holds.
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def as_tensor(array: ArrayLike) -> Tensor:
    """A copy of an array, on the CPU, which torch takes.

    Its own functions refuse arrays that are reversed, as x[::-1], or of the other byte order. They
    warn of those that may not be written to.

    TypeError: it is no array of numbers.
    """
    found = np.asarray(array)
    return torch.from_numpy(np.array(found, dtype=found.dtype.newbyteorder("=")))


# torch's settings of what float32 is rounded to before a product, the general settings first: a
# setting that was never set follows a more general one.
_backends: Any = torch.backends
_PRECISIONS: tuple[Any, ...] = (
    _backends,
    _backends.cudnn,
    _backends.cuda.matmul,
    _backends.cudnn.conv,
    _backends.cudnn.rnn,
    _backends.mkldnn.matmul,
    _backends.mkldnn.conv,
    _backends.mkldnn.rnn,
)


def pick_device(name: str) -> torch.device:
    """The device of this name. auto: cuda if there is a GPU, else cpu. ValueError: it is not there.

    mps is taken when it is named: nobody has run this project on it.
    """
    there = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        name = "cuda" if there["cuda"] else "cpu"
    kind, _, index = name.partition(":")
    if not re.fullmatch(r"\w+(:\d{1,4})?", name) or int(index or 0) >= there.get(kind, 0):
        words = (
            f"{kind}{f':0 to {kind}:{count - 1}' if count > 1 else ''}"
            for kind, count in there.items()
            if count
        )
        raise ParameterError("device", f"{name} is not there; available: {', '.join(words)}")
    return torch.device(name)


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

    Once the last thread has left it all settings are as they were, whichever of torch's interfaces
    set them.
    """
    _full.enter()
    try:
        yield
    finally:
        _full.leave()


class _Full:
    """The settings of torch that all threads in `full_precision` share."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = Lock(), 0, list[tuple[Any, str]]()

    def enter(self) -> None:
        with self.lock:
            self.users += 1
            if self.users > 1:
                return
            for setting in _PRECISIONS:
                # A setting follows the general ones, which are full by now. If it reads otherwise,
                # it has a value of its own, which we put back.
                if (value := setting.fp32_precision) != "ieee":
                    self.before.append((setting, value))
                    setting.fp32_precision = "ieee"

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            while self.before and not self.users:
                setting, value = self.before.pop()
                setting.fp32_precision = value


_full = _Full()


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Context: operations on x compute in the type of their arguments."""
    # The meta device, on which we count the memory of a training, has no autocast.
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):  # to leave it takes 10 us
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def same_each_time() -> Iterator[None]:
    """Context: cuDNN computes the same bits each time.

    No sums in the order of arrival, no algorithm chosen by a stopwatch.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes faster in bfloat16 than in float32.

    Of CPUs: with AMX, or AMD's AVX512-BF16. Intel's AVX512-BF16 takes twice the time of float32
    (docs/performance.md).
    """
    if device.type == "cpu":
        by_amd = "AuthenticAMD" in _processor()
        return torch.cpu._is_amx_tile_supported() or (
            by_amd and torch.cpu._is_avx512_bf16_supported()
        )
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def _processor() -> str:
    """Words of the system that name the CPU's maker."""
    described = Path("/proc/cpuinfo")
    return described.read_text(errors="replace") if described.exists() else platform.processor()


def lacking_memory(error: BaseException) -> str:
    """'memory' or 'GPU memory' if the error says that there is not enough of it; else ''.

    torch raises OutOfMemoryError for its own memory on a GPU. The driver, CUDA's libraries and
    torch's CPU allocator raise a RuntimeError, which is recognised by its words.
    """
    words = str(error) if isinstance(error, RuntimeError) else ""
    if re.search("CUDA error: out of memory|(CUBLAS|CUDNN|CUSOLVER)_STATUS_ALLOC_FAILED", words):
        return "GPU memory"
    if isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in words:
        return "GPU memory"
    lacking = re.search("DefaultCPUAllocator|out of memory", words)
    return "memory" if lacking or isinstance(error, MemoryError) else ""


def keep_freed_memory() -> None:
    """Keep freed memory in this process, for the activations of the next step.

    Otherwise it goes back to Linux, which clears it again for each step. For programs that only
    compute, such as the commands: other processes get the memory when this process ends.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 32 * 2**20)  # the most that glibc takes
        libc.mallopt(trim_threshold, -1)  # never
