"""One step of maximum likelihood (section 4.1): loss, gradient, and whether to follow it."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from realnvp.config import TrainConfig
from realnvp.flows.flow import Flow
from realnvp.flows.paper import l2_penalty
from realnvp.io.checkpoint import TrainState
from realnvp.moments import restore_moments, stored_moments
from realnvp.training.optim import rate
from realnvp.training.run import Run


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


def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
    """Take a step on x, this process' part of the batch.

    Returns the loss (nats an image), the norm of its gradient, and the signal to stop, or 0.
    A step whose loss or gradient is not finite, or far out (`skip_factor`), changes neither weights
    nor moments.
    """
    before, state, recipe = stored_moments(run.flow), run.state, run.config.train
    context = run.batches.condition_on([state.step])
    # Adam's eps and the clip are relative to nats an image (section 4.1).
    with torch.autocast(x.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
        nats = -run.model(x, *context).mean()
    run.accelerator.backward(nats + recipe.l2 * l2_penalty(run.flow))
    norm = torch.as_tensor(
        run.accelerator.clip_grad_norm_(run.flow.parameters(), _largest_norm(recipe, state))
    )
    mine = [
        nats.detach(),
        norm.to(nats),
        nats.new_full((), max(run.stop, default=0)),
        nats.new_full((), run.step_seconds),
    ]
    # The one wait for the device in a step.
    everyones = run.accelerator.gather(torch.stack(mine)).view(-1, 4).cpu().numpy()
    loss, (_, norm, signal_to_stop, seconds) = (
        everyones[:, 0].mean().item(),
        everyones.max(0).tolist(),
    )
    state.training_seconds += seconds  # of the slowest process: all must agree on the learning rate
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite and not _far_out(recipe, state, norm):
        share = rate(
            run.progress, rising=(state.step + 1) / (recipe.warmup + 1), decay=recipe.decay
        )
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
            optimizer.step()
        run.average.update(state.step + 1)
    else:
        restore_moments(before)
        state.skipped += 1
    if finite:
        state.typical_norm = _typical(state.typical_norm, norm)
    run.flow.zero_grad()
    return loss, norm, int(signal_to_stop)


def _largest_norm(recipe: TrainConfig, state: TrainState) -> float:
    """The norm that the gradient is clipped to."""
    relative = (recipe.clip_factor or 0) * state.typical_norm  # 0: none is known
    return min(recipe.grad_clip, relative or recipe.grad_clip)


def _far_out(recipe: TrainConfig, state: TrainState, norm: float) -> bool:
    """Whether a gradient is too large to be followed: Muon's steps have one size."""
    return recipe.skip_factor is not None and 0 < recipe.skip_factor * state.typical_norm < norm


def _typical(typical: float, norm: float) -> float:
    """The geometric mean of about fifty norms; a norm counts as at most ten times the old mean."""
    return typical**0.98 * min(norm, 10 * typical) ** 0.02 if typical and norm else norm
