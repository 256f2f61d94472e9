"""Which device a command computes on, and when its memory is not enough."""

import ctypes
import platform
import re
import sys
from functools import cache
from pathlib import Path

import torch


def pick_device(name: str) -> torch.device:
    """The device of this name; auto: the first of cuda, mps, cpu that is there. ValueError if it is not."""
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name == "auto":
        name = next(kind for kind, count in there.items() if count)
    kind, _, index = name.partition(":")
    if not re.fullmatch(r"\w+(:\d{1,4})?", name) or int(index or 0) >= there.get(kind, 0):
        words = (f"{kind}{f':0 to {kind}:{count - 1}' if count > 1 else ''}" for kind, count in there.items() if count)
        raise ValueError(f"--device: {name} is not there; available: {', '.join(words)}")
    return torch.device(name)


def has_bfloat16(device: torch.device) -> bool:
    """Whether it computes faster in bfloat16 than in float32: CPUs and GPUs with fast instructions for it.

    Of CPUs that is AMX, and AMD's AVX512-BF16; Intel's takes twice the time of float32 (docs/performance.md).
    """
    if device.type == "cpu":
        by_amd = "AuthenticAMD" in _processor()
        return torch.cpu._is_amx_tile_supported() or (by_amd and torch.cpu._is_avx512_bf16_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def _processor() -> str:
    """Words of the system that name the CPU's maker."""
    described = Path("/proc/cpuinfo")
    return described.read_text(errors="replace") if described.exists() else platform.processor()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what Python, numpy or torch raises where memory, a GPU's too, is not enough."""
    # torch has an error of its own for GPUs. Its CPU allocator and mps raise a RuntimeError, which only words tell apart.
    words = ("DefaultCPUAllocator", "out of memory")
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)


def keep_freed_memory() -> None:
    """From here on this process keeps what it frees; else Linux clears the memory of all activations anew in each step.

    For programs that do nothing but compute, such as the commands: no other process gets that memory before this one ends.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 32 * 2**20)  # the most that glibc takes
        libc.mallopt(trim_threshold, -1)  # never
