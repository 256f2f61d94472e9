"""A step of maximum likelihood: loss and gradient, Muon, learning rates, averaged weights."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
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


class Muon(Optimizer):
    """Steps W <- (1 - lr decay) W - lr sqrt(max(1, rows / columns)) O.

    O is the gradient's Nesterov momentum, `orthogonalized`. torch.optim.Muon has it in bfloat16,
    matrix by matrix; this class in the weights' own precision, for all matrices of a shape at once,
    with less than half of the arithmetic (docs/performance.md).
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Change all weights that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append((weight, weight.grad))
            for (rows, columns), pairs in alike.items():
                weights, gradients = zip(*pairs, strict=True)
                for weight in weights:
                    if "momentum_buffer" not in self.state[weight]:
                        self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
                past = [self.state[weight]["momentum_buffer"] for weight in weights]
                torch._foreach_lerp_(past, gradients, 1 - group["momentum"])
                nesterov = torch.stack(torch._foreach_lerp(gradients, past, group["momentum"]))
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(
                    weights,
                    list(orthogonalized(nesterov).unbind()),
                    alpha=-group["lr"] * max(1, rows / columns) ** 0.5,
                )


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
        self.tensors = {
            name: parameter.detach().clone() for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after this step, counted from 1."""
        if self.tensors:
            torch._foreach_lerp_(
                list(self.tensors.values()),
                [parameter.detach() for parameter in self.parameters.values()],
                1 - min(self.decay, step / (step + 9)),
            )

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
    own = partial(type(layer).forward, layer)
    if not layer.training:
        return own(*inputs)
    second = _SecondPass(layer)
    return checkpoint(
        own,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), second),
    )


class _SecondPass:
    """Context, for any number of backward passes: the moments of before the first forward pass."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.before = layer, stored_moments(layer)

    def __enter__(self) -> None:
        self.after = stored_moments(self.layer)
        restore_moments(self.before)

    def __exit__(self, *_: object) -> None:
        restore_moments(self.after)
