"""Where numbers stop being finite: a batch is run again, with an eye on each layer."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from realnvp.flow import Flow
from realnvp.models import l2_penalty
from realnvp.moments import restore_moments, stored_moments


def first_nonfinite(flow: Flow, x: Tensor, *, l2: float) -> str:
    """In words: the first layer of the forward pass, else the first gradient of the backward pass, that is not finite for x.

    Changes nothing. Several processes call it together, and each makes both passes whatever it finds: they share their moments.
    """
    before, bad = stored_moments(flow), list[str]()

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if not all(map(_finite, outputs if isinstance(outputs, tuple) else (outputs,))):
                bad.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in flow.named_modules()]
    try:
        loss = -flow(x).mean() + l2 * l2_penalty(flow)
    finally:
        for handle in hooks:
            handle.remove()
    names, parameters = zip(*flow.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    restore_moments(before)
    if not _finite(x):
        return "the batch itself is not finite"
    if bad:
        return f"first non-finite layer {bad[0] or 'log_prob'}{_own(flow.get_submodule(bad[0]))}"
    if not _finite(loss):
        return "the penalty on the weights is not finite"
    if wrong := [name for name, gradient in zip(names, gradients, strict=True) if not _finite(gradient)]:
        return f"first non-finite gradient {wrong[-1]}"  # the backward pass comes from the end
    return "run again, the batch gives finite numbers"


def _own(module: nn.Module) -> str:
    """Which of the module's own numbers are not finite, in words."""
    mine = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    wrong = [name for name, tensor in mine if not _finite(tensor)]
    return f" (its {', '.join(wrong)} too)" if wrong else ""


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())
