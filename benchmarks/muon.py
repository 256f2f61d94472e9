"""What Muon costs beside a training step of photos-modern, torch's and ours in turns: python -m benchmarks.muon

Random images, batch 32, one thread, CPU time, medians.
"""

import time
from collections.abc import Callable
from statistics import median

import torch

from realnvp.bijections import starting
from realnvp.models import build, matrices
from realnvp.muon import Muon

ROUNDS = 20


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    flow = build("photos-modern").train()
    x = 256 * torch.rand(32, 3, 32, 32)
    with torch.no_grad(), starting(flow):
        flow.log_prob(x)

    def gradient() -> None:
        flow.zero_grad()
        (-flow.log_prob(x).mean()).backward()

    gradient()
    # A rate of nearly nothing: the weights, and so the work, stay as they are.
    optimizers = {
        "torch.optim.Muon": torch.optim.Muon(matrices(flow), lr=1e-9, weight_decay=0.0),
        "realnvp.muon.Muon": Muon(matrices(flow), lr=1e-9),
    }
    calls: dict[str, Callable[[], object]] = {"gradient": gradient} | {name: each.step for name, each in optimizers.items()}
    for call in calls.values():
        call()
    times = [{name: seconds(call) for name, call in calls.items()} for _ in range(ROUNDS)]
    print("| | ms | beside the gradient |\n|---|---|---|")
    for name in calls:
        share = median(line[name] / line["gradient"] for line in times)
        print(f"| {name} | {1e3 * median(line[name] for line in times):.1f} | {share:.2f} |")


if __name__ == "__main__":
    main()
