"""A flow fitted to rows in memory, in seconds: points, tables, and all of `realnvp.sklearn`."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp.bijections import Chain, SinhArcsinh
from realnvp.config.errors import ParameterError, one_line
from realnvp.config.fields import (
    AT_LEAST_ONE,
    BELOW_ONE,
    NOT_NEGATIVE,
    SEED,
    check_number,
    positive,
)
from realnvp.device import as_tensor
from realnvp.flows.flow import Flow, evaluating, initialize_from, refuse_fast
from realnvp.random import Purpose, generator
from realnvp.training.batches import spread_of
from realnvp.training.optim import WeightAverage, rate

PRIOR_ROWS = 50
"""Few rows say little: so many more count, whose latents are normal already."""


def calibrate(flow: Flow, x: Tensor, context: Any = None) -> None:
    """Fit the flow's last layer, a `SinhArcsinh`, by maximum likelihood of rows held out.

    A flow that knows its training rows by heart is too sure of others: their latents are wider
    than N(0, 1), and intervals hold less than they say. This is the recalibration of quantiles of
    Kuleshov et al. (2018) as a bijection, so that p(x | c) stays a density.

    Without such a layer, or without rows, nothing changes.
    """
    last = last_of(flow)
    if last is None or not len(x):
        return
    with evaluating(flow):
        z = last.inverse(flow.encode(x, context)).double()
    quantiles = torch.special.ndtri(
        (torch.arange(PRIOR_ROWS, device=z.device).to(z) + 0.5) / PRIOR_ROWS
    )
    z = torch.cat([z[z.isfinite().all(1)], quantiles[:, None].expand(-1, z.shape[1])])
    layer = copy.deepcopy(last).to(z).requires_grad_()
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        latents, log_det = layer(z)
        nats = -(flow.prior.log_prob(latents) + log_det).mean()
        nats.backward()  # type: ignore[no-untyped-call]
        return nats

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    if all(weight.isfinite().all() for weight in layer.parameters()):
        last.load_state_dict(layer.state_dict())


def last_of(flow: Flow) -> SinhArcsinh | None:
    """The layer that `calibrate` fits. None: the flow ends otherwise."""
    if not isinstance(flow.bijection, Chain):
        return None
    last = flow.bijection.bijections[-1]
    return last if isinstance(last, SinhArcsinh) else None


LOOK_EVERY = 25  # steps
SAY_EVERY = 10.0  # seconds
MOST_HELD_OUT = 2000  # rows
WARMUP = 0.05  # of the steps
PROTOCOL = "forward(x) of a bijection returns z, of x's shape, and log_det, of shape (len(x),)"
NOISY = "fit takes v + u, pixels and noise: x + torch.rand(x.shape)"
CLIP = 10.0  # norm of the gradient of nats a row


@dataclass
class Fit:
    """How a fit went, in nats a row."""

    loss: list[float] = field(default_factory=list)
    """Minus the mean log-density of each step's batch."""
    validation: list[float] = field(default_factory=list)
    """Mean log-densities of the rows held out: at the start, each 25 steps, at the end."""
    best_step: int = 0
    """The step whose weights were kept."""


@torch.inference_mode(False)
@torch.enable_grad()
def fit(
    flow: Flow,
    x: Tensor | NDArray[Any],
    *,
    context: Any = None,
    max_steps: int = 1000,
    batch_size: int = 256,
    lr: float = 5e-3,
    noise: float = 0.05,
    average: float = 0.98,
    held_out: float = 0.1,
    patience: float = 500,
    tol: float = 1e-4,
    start: bool = True,
    seed: int = 0,
    verbose: bool = False,
) -> Fit:
    """Fit the flow to the rows x by maximum likelihood, in place; returns the curves.

    The flow is in eval mode afterwards, and has the shape of x. ValueError names what is out of
    range.

    x: (N, D) or (N, C, H, W), in data units, a tensor or a numpy array; pixels with their noise,
        v + u. float64: so are z and log-det between the layers, whatever the networks are.
    given: c of each row, of a conditional flow.
    max_steps, batch_size: steps of Adam, and the rows of each.
    lr: the learning rate's peak; it rises to lr, and falls to 0 over max_steps.
    noise: each batch gets Gaussian noise with noise^2 times the covariance of the rows (of images:
        their pixels' variances). Without it the likelihood has no bound where rows repeat or
        columns depend on each other.
    average: the weights kept are a moving average that keeps this share each step.
    held_out: the share of the rows, at most 2,000, that chooses the weights kept, and calibrates a
        flow that is `calibrated`. 0: the last are kept.
    patience, tol: stop after patience steps in which the rows held out gained less than tol nats.
    start: let the first layers standardise and whiten the rows. False: go on with an earlier fit.
    seed: the same seed gives the same weights; torch's own generators are left alone.
    verbose: print the progress, each 25 steps and each 10 seconds.
    """
    if not isinstance(flow, Flow):
        raise ParameterError(
            "flow",
            f"is {type(flow).__name__}; fit(flow, x) takes a Flow, as realnvp.build makes one",
        )
    refuse_fast(flow, "fit")
    weights = [weight for weight in flow.parameters() if weight.requires_grad]
    if not weights:
        raise ParameterError("flow", "has no weights to fit")
    x = _tensor(x)
    max_steps = check_number("max_steps", max_steps, int, AT_LEAST_ONE)
    batch_size = check_number("batch_size", batch_size, int, AT_LEAST_ONE)
    lr = check_number("lr", lr, float, positive())
    noise = check_number("noise", noise, float, NOT_NEGATIVE)
    average = check_number("average", average, float, BELOW_ONE)
    held_out = check_number("val_fraction", held_out, float, NOT_NEGATIVE)
    patience = check_number("patience", patience, float, AT_LEAST_ONE)
    tol = check_number("tol", tol, float, NOT_NEGATIVE)
    seed = check_number("seed", seed, int, SEED)
    if math.ceil(held_out * len(x)) >= len(x):
        raise ParameterError(
            "val_fraction", f"no row of {len(x)} is left to fit to with {held_out}"
        )
    _check_rows(flow, x)
    c = flow.condition_of_each(context, len(x))
    if flow.config is None:
        _check_own(flow, x[:3], None if c is None else c[:3])
    if flow.shape is None:
        flow.shape = tuple(x.shape[1:])
    random = generator(seed, Purpose.TRAIN)
    order = torch.from_numpy(random.permutation(len(x)))
    held = min(math.ceil(held_out * len(x)), MOST_HELD_OUT)
    validation, train = x[order[:held]], x[order[held:]]
    c_validation, c_train = (None, None) if c is None else (c[order[:held]], c[order[held:]])
    spread = noise * spread_of(train)
    if start:
        with evaluating(flow):
            initialize_from(flow, train, c_train)
    optimizer = torch.optim.Adam(weights, fused=x.device.type in ("cpu", "cuda"))
    best, smooth = _Best(flow, validation, c_validation, tol), WeightAverage(flow, average)
    best.look(0)
    losses, said = [], time.monotonic()
    try:
        flow.train()
        for step in range(1, max_steps + 1):
            chosen = torch.from_numpy(random.integers(len(train), size=min(batch_size, len(train))))
            batch = train[chosen]
            blur = torch.from_numpy(random.standard_normal(batch.shape)).to(batch)
            batch = batch + (blur @ spread.T if x.ndim == 2 else spread * blur)
            loss = -flow.log_prob(batch, None if c_train is None else c_train[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.param_groups[0]["lr"] = lr * rate(
                step / max_steps, rising=step / (WARMUP * max_steps)
            )
            if torch.nn.utils.clip_grad_norm_(weights, CLIP).isfinite():
                optimizer.step()
            smooth.update(step)
            losses.append(loss.item())
            if looked := (step % LOOK_EVERY == 0 or step == max_steps):
                with smooth.used():
                    best.look(step)
            if verbose and (looked or time.monotonic() - said > SAY_EVERY):
                said = time.monotonic()
                found = f", best {best.nats:.3f} nats at step {best.step}" if best.seen else ""
                print(f"step {step} of {max_steps}: loss {losses[-1]:.3f}{found}")
            if looked and step - best.improved >= patience:
                break
    finally:
        flow.eval()
    if best.weights:
        flow.load_state_dict(best.weights)
    calibrate(flow, validation, c_validation)
    return Fit(losses, best.seen, best.step)


class _Best:
    """The weights with the highest mean log-density of the rows held out, if any, else the last."""

    def __init__(self, flow: Flow, rows: Tensor, context: Tensor | None, tol: float) -> None:
        self.flow, self.rows, self.context, self.tol = flow, rows, context, tol
        self.seen: list[float] = []
        self.nats, self.step, self.improved = -math.inf, 0, 0
        self.weights: dict[str, Tensor] = {}

    def look(self, step: int) -> None:
        """Compare the weights as they are after this step."""
        if not len(self.rows):
            self.step, self.improved, self.weights = (
                step,
                step,
                copy.deepcopy(self.flow.state_dict()),
            )
            return
        with evaluating(self.flow):
            nats = self.flow.log_prob(self.rows, self.context).mean().item()
        self.seen.append(nats)
        if nats > self.nats + self.tol:
            self.improved = step
        if nats > self.nats:
            self.nats, self.step, self.weights = nats, step, copy.deepcopy(self.flow.state_dict())


def _tensor(x: Any) -> Tensor:
    """Rows as a tensor of real numbers; integers become float64. ParameterError: they are none."""
    try:
        rows = x.detach() if isinstance(x, Tensor) else as_tensor(x)
    except (TypeError, ValueError) as error:
        raise ParameterError("x", f"is no array of numbers: {one_line(error)}") from None
    if rows.is_complex():
        raise ParameterError("x", f"must be real numbers, got {rows.dtype}")
    if rows.ndim == 4 and not rows.is_floating_point():
        raise ParameterError("x", f"{rows.dtype}; {NOISY}")
    return rows if rows.is_floating_point() else rows.double()


def _check_own(flow: Flow, x: Tensor, context: Tensor | None) -> None:
    """ParameterError: a flow of one's own parts does not keep the protocol."""
    if flow.shape not in (None, tuple(x.shape[1:])):
        return  # log_prob says so
    with evaluating(flow):
        try:
            z, log_det = flow.bijection(x, flow.embed_context(context, len(x)))
            found = f"z of shape {tuple(z.shape)}, log_det of shape {tuple(log_det.shape)}"
            kept = z.shape == x.shape and log_det.shape == x.shape[:1]
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ParameterError("flow", f"{PROTOCOL}: {one_line(error)}") from error
    if not kept:
        raise ParameterError("flow", f"{PROTOCOL}; of x of shape {tuple(x.shape)} it gives {found}")


def _check_rows(flow: Flow, x: Tensor) -> None:
    """ParameterError: rows that the flow cannot be fitted to."""
    if not x.isfinite().all():
        raise ParameterError("x", "must be finite")
    check_size(x)
    if flow.config and flow.config.data.levels and bool((x == x.floor()).all()):
        raise ParameterError("x", f"whole numbers; {NOISY}")


def check_size(x: Tensor, names: Sequence[str] | None = None) -> None:
    """ValueError names the first entry, and its column, that float32 weights cannot follow."""
    largest = torch.finfo(torch.float32).max
    if (large := (x.abs() > largest).nonzero()).numel():
        first = large[0].tolist()
        where = f"x{first}" if names is None else f"column {names[first[1]]!r}, row {first[0]}"
        raise ValueError(
            f"{where}: is {x[tuple(first)]:g}, beyond {largest:.1g}; a mark of missing values?"
        )
