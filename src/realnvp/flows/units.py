"""Is x a batch in the units of the flow? What is wrong with it otherwise, and what mends it."""

import warnings
from contextlib import suppress

import numpy as np
from torch import Tensor, compiler

from realnvp.config import Config
from realnvp.config.remedies import as_levels


def check_type(x: object) -> None:
    """ValueError, with the line that mends it, if x is no tensor of real numbers."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return
    dtype = str(getattr(x, "dtype", "no type"))
    if "uint" in dtype:
        remedy = "pixels v: realnvp.bits_per_dim(flow, x), which adds the noise u"
    elif isinstance(x, Tensor):
        remedy = "x.double()"
    elif isinstance(x, np.ndarray):
        remedy = "torch.from_numpy(x)"
    else:
        remedy = "torch.tensor(x)"
    raise ValueError(
        f"the flow takes floating-point tensors (pixels: v + u), got {type(x).__name__} of "
        f"{dtype}: {remedy}"
    )


def warn_of_floats(x: Tensor, config: Config | None) -> None:
    """Warn if images can only be floats in 0..1 or -1..1, for a flow of many grey levels."""
    levels = (config and config.data.levels) or 0
    if levels < 4 or x.ndim != 4 or compiler.is_compiling():
        return
    with suppress(RuntimeError):  # under vmap no value can be looked at
        if x.numel() and x.detach().abs().max().item() <= 1:
            mended = as_levels("x", levels, negative=x.detach().min().item() < 0)
            warnings.warn(
                f"x: no value is outside [-1, 1], but the flow is of grey levels 0 to {levels - 1}:"
                f" {mended}, then realnvp.bits_per_dim(flow, v) or "
                "flow.log_prob(v + torch.rand(v.shape))",
                stacklevel=4,
            )
