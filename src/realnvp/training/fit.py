"""A flow fitted to rows in memory, in seconds: points, tables, and all of `realnvp.sklearn`."""

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from realnvp.bijections import Chain, SinhArcsinh
from realnvp.config.fields import ImageData
from realnvp.device import as_tensor
from realnvp.flows.flow import Flow, evaluating, initialize_from, refuse_fast
from realnvp.moments import restore_moments, stored_moments
from realnvp.progress import set_status, show_progress, track
from realnvp.random import Purpose, generator
from realnvp.training.batches import spread_of
from realnvp.training.optim import WeightAverage, loss_and_gradient, rate, take_step

PRIOR_ROWS = 50  # normal latents that draw a calibration on few rows towards the identity
EVAL_EVERY = 25  # steps
MOST_VALIDATION = 2000  # rows
WARMUP = 0.05  # of the steps
CLIP = 10.0  # norm of the gradient of nats a row


def recalibrate(flow: Flow, x: Tensor, context: Any = None) -> None:
    """Fit the flow's last layer, a `SinhArcsinh`, by maximum likelihood of rows held out.

    An overfitted flow is too sure of new rows: their latents are wider than N(0, 1), and intervals
    cover less than their nominal share. This is the recalibration of quantiles of Kuleshov et al.
    (2018) as a bijection, so that p(x | c) stays a density.

    Without such a layer, or without rows, nothing changes.
    """
    last = last_of(flow)
    if last is None or not len(x):
        return
    with evaluating(flow):
        z = last.inverse(flow.encode(x, context)).double()
    shares = (torch.arange(PRIOR_ROWS, device=z.device).to(z) + 0.5) / PRIOR_ROWS
    quantiles = torch.special.ndtri(shares)[:, None].expand(-1, z.shape[1])
    z = torch.cat([z[z.isfinite().all(1)], quantiles])
    layer = copy.deepcopy(last).to(z).requires_grad_()
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        latents, log_det = layer(z)
        nats = -(flow.prior.log_prob(latents) + log_det).mean()
        torch.autograd.backward(nats)
        return nats

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    if all(weight.isfinite().all() for weight in layer.parameters()):
        last.load_state_dict(layer.state_dict())


def last_of(flow: Flow) -> SinhArcsinh | None:
    """The layer that `recalibrate` fits. None: the flow ends otherwise."""
    if not isinstance(flow.bijection, Chain):
        return None
    last = flow.bijection.bijections[-1]
    return last if isinstance(last, SinhArcsinh) else None


@dataclass(repr=False)
class Fit:
    """The curves of a fit, in nats a row."""

    loss: list[float] = field(default_factory=list)
    """Minus the mean log-density of each step's batch."""
    validation: list[float] = field(default_factory=list)
    """Mean log-densities of the validation rows: at the start, each 25 steps, at the end."""
    best_step: int = 0
    """The step whose weights were kept."""


@torch.inference_mode(False)
@torch.enable_grad()
def fit(
    flow: Flow,
    x: Tensor | NDArray[Any] | Dataset[Any] | DataLoader[Any],
    *,
    context: Any = None,
    max_steps: int = 1000,
    batch_size: int = 256,
    lr: float = 5e-3,
    noise: float = 0.05,
    ema_decay: float = 0.98,
    val_fraction: float = 0.1,
    patience: float = 500,
    tol: float = 1e-4,
    initialize: bool = True,
    seed: int = 0,
    verbose: bool = False,
) -> Fit:
    """Fit the flow to the rows x by maximum likelihood, in place; returns the curves.

    The flow is in eval mode afterwards, and has the shape of x.

    x: (N, D) or (N, C, H, W), in data units, pixels with their noise v + u; or a torch Dataset or
        DataLoader of x, or of pairs of x and context, which is read into memory. float64: so are z
        and log-det between the layers, whatever the networks are.
    context: c of each row, of a conditional flow.
    max_steps, batch_size: steps of Adam, and the rows of each.
    lr: the learning rate's peak; it rises to lr, and falls to 0 over max_steps.
    noise: each batch gets Gaussian noise with noise^2 times the covariance of the rows (of images:
        their pixels' variances). Without it the likelihood has no bound where rows repeat or
        columns depend on each other.
    ema_decay: the weights kept are a moving average that keeps this share each step.
    val_fraction: the share of the rows, at most 2,000, for validation: they choose the weights that
        are kept, and recalibrate a conditional flow. 0: the last weights are kept.
    patience, tol: stop after patience steps in which validation gained less than tol nats.
    initialize: let the first layers standardize and whiten the rows. False: continue a fit.
    seed: the same seed gives the same weights; torch's own generators are left alone.
    verbose: show the progress.

    ValueError: x or context is not finite in float32, or x is gray levels without noise.
    """
    refuse_fast(flow, "fit")
    x, context = _in_memory(x, context)
    images = flow.config and isinstance(flow.config.data, ImageData)
    if images and bool((x == x.floor()).all()):
        raise ValueError("x: is gray levels; fit takes v + u, such as x + torch.rand(x.shape)")
    c = flow.condition_of_each(context, len(x))
    for name, values in (("x", x), ("context", c)):
        if values is not None and not values.float().isfinite().all():
            raise ValueError(f"{name}: is not finite, or beyond the range of float32")
    if flow.shape is None:
        flow.shape = tuple(x.shape[1:])
    random = generator(seed, Purpose.TRAIN)
    order = torch.from_numpy(random.permutation(len(x)))
    count = min(math.ceil(val_fraction * len(x)), MOST_VALIDATION)
    if count >= len(x):
        raise ValueError(f"val_fraction: leaves no row of {len(x)} to fit to")
    (validation, c_validation), (train, c_train) = (
        (x[rows], None if c is None else c[rows]) for rows in (order[:count], order[count:])
    )
    spread = noise * spread_of(train)
    if initialize:
        with evaluating(flow):
            initialize_from(flow, train, c_train)
    weights = [weight for weight in flow.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=lr, fused=x.device.type in ("cpu", "cuda"))
    average, result = WeightAverage(flow, ema_decay), Fit()
    best, improved, kept = -math.inf, 0, copy.deepcopy(flow.state_dict())

    def keep_if_better(step: int) -> None:
        nonlocal best, improved, kept
        nats = float(step)  # without validation rows the last weights are the best
        if len(validation):
            with evaluating(flow):
                nats = flow.log_prob(validation, c_validation).mean().item()
            result.validation.append(nats)
        improved = step if nats > best + tol else improved
        if nats > best:
            best, result.best_step, kept = nats, step, copy.deepcopy(flow.state_dict())

    keep_if_better(0)
    flow.train()
    with show_progress() if verbose else nullcontext():
        for step in track(range(1, max_steps + 1), "step"):
            size = min(batch_size, len(train))
            chosen = torch.from_numpy(random.integers(len(train), size=size))
            batch, before = train[chosen], stored_moments(flow)
            draws = torch.from_numpy(random.standard_normal(batch.shape)).to(batch)
            batch = batch + (draws @ spread.T if batch.ndim == 2 else spread * draws)
            condition = () if c_train is None else (c_train[chosen],)
            loss, norm = loss_and_gradient(flow, flow, batch, *condition, grad_clip=CLIP)
            if norm.isfinite():
                share = rate(step / max_steps, rising=step / (WARMUP * max_steps))
                take_step([optimizer], average, step=step, share=share)
            else:
                restore_moments(before)
            flow.zero_grad()
            result.loss.append(loss.item())
            if step % EVAL_EVERY == 0 or step == max_steps:
                with average.used():
                    keep_if_better(step)
                set_status(f"loss {result.loss[-1]:.3f}, best validation {best:.3f} nats")
                if step - improved >= patience:
                    break
    flow.eval()
    flow.load_state_dict(kept)
    recalibrate(flow, validation, c_validation)
    return result


def _in_memory(x: Any, context: Any) -> tuple[Tensor, Any]:
    """x as a tensor of floats, and the context: given, or the second of a Dataset's pairs."""
    if isinstance(x, Dataset):
        x = DataLoader(x, batch_size=1024)
    if isinstance(x, DataLoader):
        batches = [batch if isinstance(batch, tuple | list) else (batch,) for batch in x]
        x, *pairs = (torch.cat(part) for part in zip(*batches, strict=True))
        context = pairs[0] if pairs and context is None else context
    rows = x.detach() if isinstance(x, Tensor) else as_tensor(x)
    return (rows if rows.is_floating_point() else rows.double()), context
