"""Which device a command computes on."""

import ctypes
import platform
import re
import sys
from functools import cache
from pathlib import Path

import torch


def pick_device(name: str) -> torch.device:
    """The device of this name; auto: the first of cuda, mps, cpu that is there. ValueError if it is not."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    if not there.get(name.split(":")[0]) or not re.fullmatch(r"\w+(:\d+)?", name):
        raise ValueError(f"--device: {name} is not there; available: {', '.join(kind for kind, here in there.items() if here)}")
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


def keep_freed_memory() -> None:
    """From here on this process keeps what it frees; else Linux clears the memory of all activations anew in each step.

    For programs that do nothing but compute, such as the commands: no other process gets that memory before this one ends.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 32 * 2**20)  # the most that glibc takes
        libc.mallopt(trim_threshold, -1)  # never
