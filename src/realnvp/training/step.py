"""One step of maximum likelihood (section 4.1): loss, gradient, and whether to follow it."""

import math

import torch
from torch import Tensor

from realnvp.config import TrainConfig
from realnvp.files.checkpoint import TrainState
from realnvp.flows.paper import l2_penalty
from realnvp.tools.moments import restore_moments, stored_moments
from realnvp.training.optimisation import rate
from realnvp.training.run import Run


def train_step(run: Run, x: Tensor) -> tuple[float, float, int]:
    """Take a step on x, this process' part of the batch.

    Returns the loss (nats an image), the norm of its gradient, and the signal to stop, or 0.
    A step whose loss or gradient is not finite, or far out (`skip_factor`), changes neither weights
    nor moments.
    """
    before, state, recipe = stored_moments(run.flow), run.state, run.config.train
    given = run.batches.given([state.step])
    # Adam's eps and the clip are relative to nats an image (section 4.1).
    with torch.autocast(x.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
        nats = -run.model(x, *given).mean()
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
    return min(recipe.clip, relative or recipe.clip)


def _far_out(recipe: TrainConfig, state: TrainState, norm: float) -> bool:
    """Whether a gradient is too large to be followed: Muon's steps have one size."""
    return recipe.skip_factor is not None and 0 < recipe.skip_factor * state.typical_norm < norm


def _typical(typical: float, norm: float) -> float:
    """The geometric mean of about fifty norms; a norm counts as at most ten times the old mean."""
    return typical**0.98 * min(norm, 10 * typical) ** 0.02 if typical and norm else norm
