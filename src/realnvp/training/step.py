"""One step of maximum likelihood (section 4.1): loss, gradient, and whether to take the step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from realnvp.config import TrainConfig
from realnvp.flows.flow import Flow
from realnvp.flows.build import l2_penalty
from realnvp.io.checkpoint import TrainState
from realnvp.moments import restore_moments, stored_moments
from realnvp.training.optim import rate, take_step
from realnvp.training.run import Run


def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
    """Take a step on x, this process's part of the batch.

    Returns the loss (nats an image), the norm of its gradient, and the signal to stop, or 0.
    A step whose loss or gradient is not finite, or far out (`skip_factor`), changes neither weights
    nor moments.
    """
    before, state, recipe = stored_moments(run.flow), run.state, run.config.train
    context = run.batches.condition_on([state.step])
    # Adam's eps and the clip are relative to nats an image (section 4.1).
    with torch.autocast(x.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
        nats = -run.model(x, *context).mean()
    torch.autograd.backward(nats + recipe.l2 * l2_penalty(run.flow))
    norm = nn.utils.clip_grad_norm_(run.flow.parameters(), recipe.grad_clip)
    signal_to_stop, seconds = max(run.stop, default=0), run.step_seconds
    mine = [nats.detach(), norm.to(nats), nats.new_full((), signal_to_stop), nats.new_full((), seconds)]
    # The only wait for the device in a step.
    everyones = run.processes.gather(torch.stack(mine)).cpu().numpy()
    loss = everyones[:, 0].mean().item()
    _, norm, signal_to_stop, seconds = everyones.max(0).tolist()
    state.training_seconds += seconds  # of the slowest process: all must agree on the learning rate
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite and not _far_out(recipe, state, norm):
        warmup = (state.step + 1) / (recipe.warmup + 1)
        share = rate(run.progress, rising=warmup, decay=recipe.decay)
        take_step(run.optimizers, run.average, step=state.step + 1, share=share)
    else:
        restore_moments(before)
        state.skipped += 1
    if finite:
        state.typical_norm = _typical(state.typical_norm, norm)
    run.flow.zero_grad()
    return loss, norm, int(signal_to_stop)


def _far_out(recipe: TrainConfig, state: TrainState, norm: float) -> bool:
    """Whether a gradient is too large to be followed: Muon's steps have one size."""
    return recipe.skip_factor is not None and 0 < recipe.skip_factor * state.typical_norm < norm


def _typical(typical: float, norm: float) -> float:
    """The geometric mean of about fifty norms; a norm counts as at most ten times the old mean."""
    return typical**0.98 * min(norm, 10 * typical) ** 0.02 if typical and norm else norm


def first_nonfinite(flow: Flow, x: Tensor, *context: Tensor) -> str:
    """Name the first layer whose output for x is not finite; "" where all are finite.

    Several processes call it together, since they share their moments, which stay as they are.
    """
    before, found = stored_moments(flow), list[str]()

    def look_at(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            if not all(output.isfinite().all() for output in outputs):
                found.append(name)

        return hook

    hooks = [module.register_forward_hook(look_at(name)) for name, module in flow.named_modules()]
    try:
        with torch.no_grad():
            flow(x, *context)
    finally:
        restore_moments(before)
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""
