"""photos-modern against the paper's model with as many parameters: python -m benchmarks.modern_speed

One thread, CPU time, batch 32, float32; the two take turns. The paper's model is photos, of the width that comes nearest.
"""

import statistics
import time
from dataclasses import replace

import torch

from benchmarks.vector_speed import tasks
from realnvp.bijections import starting
from realnvp.config import PRESETS
from realnvp.flow import Flow
from realnvp.models import build

ROUNDS = 6
BATCH = 32


def parameters(flow: Flow) -> int:
    """How many a flow has."""
    return sum(parameter.numel() for parameter in flow.parameters())


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    modern, paper = build("photos-modern"), PRESETS["photos"]
    sizes = [build(replace(paper, model=replace(paper.model, width=width))) for width in range(8, 17)]
    contest = {"modern": modern, "paper": min(sizes, key=lambda flow: abs(parameters(flow) - parameters(modern)))}
    x = 256 * torch.rand(BATCH, 3, 32, 32)
    with torch.no_grad(), starting(modern):
        modern.log_prob(x)
    calls = {name: tasks(flow, flow.log_prob, flow.sample, x) for name, flow in contest.items()}
    print("| " + ", ".join(f"{name}: {parameters(flow) / 1e6:.2f} M" for name, flow in contest.items()), end="")
    print(" | modern, ms an image | paper / modern |\n|---|---|---|")
    took: dict[str, float] = {}
    for task in calls["modern"]:
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS + 1):
            for name in calls:
                began = time.process_time()
                calls[name][task]()
                seconds[name].append((time.process_time() - began) / BATCH)
        ratio = statistics.median(a / b for a, b in zip(seconds["paper"][1:], seconds["modern"][1:], strict=True))
        took[task] = statistics.median(seconds["modern"][1:])
        print(f"| {task} | {1e3 * took[task]:.2f} | {ratio:.2f} |", flush=True)
    print(f"\nsample / log_prob of modern: {took['sample'] / took['log_prob']:.2f}")


if __name__ == "__main__":
    main()
