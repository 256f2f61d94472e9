"""Which device a command computes on."""

import re

import torch


def pick_device(name: str) -> torch.device:
    """The device of this name; auto: the first of cuda, mps, cpu that is there. ValueError if it is not."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    if not there.get(name.split(":")[0]) or not re.fullmatch(r"\w+(:\d+)?", name):
        raise ValueError(f"--device: {name} is not there; available: {', '.join(kind for kind, here in there.items() if here)}")
    return torch.device(name)
