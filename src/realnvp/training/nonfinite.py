"""Where numbers stop being finite: a batch is run again, with an eye on each layer."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from realnvp.flows.flow import Flow
from realnvp.flows.paper import l2_penalty
from realnvp.tools.moments import restore_moments, stored_moments


def first_nonfinite(flow: Flow, x: Tensor, *, l2: float) -> str:
    """Name the first layer of the forward pass, else the first gradient, that is not finite for x.

    l2: the weight of the penalty, `TrainConfig.l2`.

    Changes nothing. Several processes call it together. They share their moments, so each makes
    both passes, whatever the first pass finds.
    """
    before, bad = stored_moments(flow), list[str]()
    hooks = [
        module.register_forward_hook(partial(_look, bad, name))
        for name, module in flow.named_modules()
    ]
    trained = {name: weight for name, weight in flow.named_parameters() if weight.requires_grad}
    try:
        gradients = torch.autograd.grad(
            -flow(x).mean() + l2 * l2_penalty(flow), [*trained.values()], materialize_grads=True
        )
    finally:
        restore_moments(before)
        for hook in hooks:
            hook.remove()
    if not x.isfinite().all():
        return "the batch itself is not finite"
    if bad:
        return f"first non-finite layer {bad[0] or 'log_prob'}"
    wrong = [
        name
        for name, gradient in zip(trained, gradients, strict=True)
        if not gradient.isfinite().all()
    ]
    # The backward pass reaches the last weights first.
    return (
        f"first non-finite gradient {wrong[-1]}"
        if wrong
        else "run again, the batch gives finite numbers"
    )


def _look(bad: list[str], name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
    """A forward hook that notes the module's name if what it returns is not finite."""
    if not all(
        output.isfinite().all()
        for output in (outputs if isinstance(outputs, tuple) else (outputs,))
    ):
        bad.append(name)
