"""What is timed of a flow, and how: contestants take turns, so that what else the machine does hits all alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor, nn

Tasks = dict[str, Callable[[], object]]
Seconds = dict[str, list[float]]


def tasks(model: nn.Module, log_prob: Callable[[Tensor], Tensor], sample: Callable[[int], Tensor], x: Tensor) -> Tasks:
    """What is timed: a step of Adam on x, log_prob of x, as many samples."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)

    def step() -> None:
        model.train()
        loss = -log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()

    @torch.no_grad()
    def density() -> None:
        model.eval()
        log_prob(x)

    def draw() -> None:
        model.eval()
        sample(len(x))

    return {"training step": step, "log_prob": density, "sample": draw}


def in_turns(contest: Mapping[str, Callable[[], object]], *, rounds: int, unmeasured: int = 1, repeats: int = 1) -> Seconds:
    """CPU seconds of a call for each contestant, one number for each round; repeats: calls in a row, whose mean counts."""
    seconds: Seconds = {name: [] for name in contest}
    for number in range(unmeasured + rounds):
        for name, call in contest.items():
            began = time.process_time()
            for _ in range(repeats):
                call()
            if number >= unmeasured:
                seconds[name].append((time.process_time() - began) / repeats)
    return seconds


def times_as_long(seconds: Seconds, who: str, base: str) -> float:
    """The median over rounds of who's time beside the base's."""
    return median(a / b for a, b in zip(seconds[who], seconds[base], strict=True))
