"""What Muon costs beside a training step of photos-modern, torch's and ours in turns: python -m benchmarks.muon

Random images, batch 32, one thread, CPU time, medians.
"""

from collections.abc import Callable
from statistics import median

import torch

from benchmarks.turns import in_turns, times_as_long
from realnvp.bijections import starting
from realnvp.flows.build import build
from realnvp.flows.modern import matrices
from realnvp.training.muon import Muon

ROUNDS = 20


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

    # A rate of nearly nothing: the weights, and so the work, stay as they are.
    optimizers = {
        "torch.optim.Muon": torch.optim.Muon(matrices(flow), lr=1e-9, weight_decay=0.0),
        "realnvp.training.muon.Muon": Muon(matrices(flow), lr=1e-9),
    }
    calls: dict[str, Callable[[], object]] = {"gradient": gradient} | {name: each.step for name, each in optimizers.items()}
    seconds = in_turns(calls, rounds=ROUNDS)
    print("| | ms | beside the gradient |\n|---|---|---|")
    for name in calls:
        print(f"| {name} | {1e3 * median(seconds[name]):.1f} | {times_as_long(seconds, name, 'gradient'):.2f} |")


if __name__ == "__main__":
    main()
