"""A step of maximum likelihood: loss and gradient, Muon, learning rates, averaged weights."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from realnvp.bijections import BatchNorm, Bijection, Coupling
from realnvp.flows.build import l2_penalty
from realnvp.flows.flow import Flow
from realnvp.moments import restore_moments, stored_moments

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
MOMENTUM = 0.95


class Muon(Optimizer):
    """Steps W <- (1 - lr decay) W - lr sqrt(max(1, rows / columns)) O.

    O is the gradient's Nesterov momentum, `orthogonalized`. torch.optim.Muon has it in bfloat16,
    matrix by matrix; this class in the weights' own precision, for all matrices of a shape at once,
    with less than half of the arithmetic (docs/design.md).
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, *, weight_decay: float = 0.0) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Change all weights that have a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Any]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for (rows, columns), weights in alike.items():
                gradients = [weight.grad for weight in weights]
                past = [
                    self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                    for weight in weights
                ]
                torch._foreach_lerp_(past, gradients, 1 - MOMENTUM)
                nesterov = torch.stack(torch._foreach_lerp(gradients, past, MOMENTUM))
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                size = group["lr"] * max(1, rows / columns) ** 0.5
                torch._foreach_add_(weights, [*orthogonalized(nesterov)], alpha=-size)


def orthogonalized(x: Tensor) -> Tensor:
    """x, (..., M, N), with its singular values moved to between .7 and 1.2.

    Singular values below a thousandth of |x| move less far.
    Five times Newton and Schulz's x <- a x + b (x x') x + c (x x')^2 x. All factors are polynomials
    of G = x x', the smaller of the two squares, so they commute: only G is iterated, and x takes
    part at the beginning and at the end.
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonalized(x.mT).mT
    a, b, c = COEFFICIENTS
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    square = x @ x.mT
    identity = torch.eye(square.shape[-1], dtype=x.dtype, device=x.device)

    def polynomial(square: Tensor) -> Tensor:
        return a * identity + b * square + c * (square @ square)

    product = factor = polynomial(square)
    for _ in range(STEPS - 1):
        square = factor @ square @ factor
        factor = polynomial(square)
        product = factor @ product
    return product @ x


class WeightAverage:
    """The average of a module's weights over steps.

    decay: the share of the average kept in each step, less in the first steps. 0: no average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(module.named_parameters()) if decay else {}
        self.tensors = {name: each.detach().clone() for name, each in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after this step, counted from 1."""
        if self.tensors:
            share = min(self.decay, step / (step + 9))
            torch._foreach_lerp_([*self.tensors.values()], [*self.parameters.values()], 1 - share)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Context: the module's weights are the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.tensors[name] = self.tensors[name], parameter.data


def loss_and_gradient(
    model: Any,
    flow: Flow,
    x: Tensor,
    *context: Tensor,
    grad_clip: float,
    l2: float = 0.0,
    bfloat16: bool = False,
) -> tuple[Tensor, Tensor]:
    """The mean loss of x in nats, and the norm of its gradient, which is in the weights, clipped.

    model: the flow, or the flow wrapped for several processes.
    """
    # Adam's eps and the clip are relative to nats an image (section 4.1).
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
        nats = -model(x, *context).mean()
    torch.autograd.backward(nats + l2 * l2_penalty(flow) if l2 else nats)
    return nats.detach(), nn.utils.clip_grad_norm_(flow.parameters(), grad_clip)


def take_step(
    optimizers: Iterable[Optimizer], average: WeightAverage, *, step: int, share: float
) -> None:
    """Step with learning rates at a share of their peaks, and average the weights.

    step: counted from 1.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
        optimizer.step()
    average.update(step)


def rate(progress: float, *, rising: float, decay: float = 1.0) -> float:
    """The learning rate's share of its peak: it rises to 1, and falls to 0 along half a cosine.

    progress: the share of the training that is done, in [0, 1].
    rising: the share of the warmup that is done; above 1 once it is over.
    decay: the last share of the training, in which the rate falls. 0: it never falls.
    """
    falling = min(1.0, (1 - progress) / decay) if decay else 1.0
    return min(1.0, rising) * (0.5 - 0.5 * math.cos(math.pi * falling))


def enable_gradient_checkpointing(flow: Flow) -> Flow:
    """The flow itself, changed: training keeps only the input of each coupling and batch norm.

    The backward pass computes each of them a second time. In eval mode nothing changes.
    """
    for module in flow.modules():
        if isinstance(module, BatchNorm | Coupling):  # all networks are in them
            module.forward = partial(_checkpointed, module)  # type: ignore[method-assign]
    return flow


def _checkpointed(layer: Bijection, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's own forward pass, which keeps only its inputs in training mode."""
    if not layer.training:
        return type(layer).forward(layer, *inputs)
    before, first = stored_moments(layer), True

    def forward(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute with the moments of before; only the first pass changes them."""
        nonlocal first
        after = stored_moments(layer)
        restore_moments(before)
        try:
            return type(layer).forward(layer, *inputs)
        finally:
            if not first:
                restore_moments(after)
            first = False

    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
