"""photos-modern against the paper's model with as many parameters: python -m benchmarks.modern_speed

One thread, CPU time, batch 32, float32; the two take turns. The paper's model is photos, of the width that comes nearest.
"""

from dataclasses import replace
from statistics import median

import torch

from benchmarks.turns import in_turns, tasks, times_as_long
from realnvp.bijections import starting
from realnvp.config import PRESETS
from realnvp.flows.build import build
from realnvp.training.memory import count_parameters

ROUNDS = 6
BATCH = 32


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    modern, paper = PRESETS["photos-modern"], PRESETS["photos"]
    sizes = [replace(paper, model=replace(paper.model, width=width)) for width in range(4, 17)]
    near = min(sizes, key=lambda config: abs(count_parameters(config) - count_parameters(modern)))
    configs = {"modern": modern, "paper": near}
    flows = {name: build(config) for name, config in configs.items()}
    x = 256 * torch.rand(BATCH, 3, 32, 32)
    with torch.no_grad(), starting(flows["modern"]):
        flows["modern"].log_prob(x)
    calls = {name: tasks(flow, flow.log_prob, flow.sample, x) for name, flow in flows.items()}
    print("| " + ", ".join(f"{name}: {count_parameters(config) / 1e6:.2f} M" for name, config in configs.items()), end="")
    print(" | modern, ms an image | paper / modern |\n|---|---|---|")
    took: dict[str, float] = {}
    for task in calls["modern"]:
        seconds = in_turns({name: calls[name][task] for name in calls}, rounds=ROUNDS)
        took[task] = median(seconds["modern"]) / BATCH
        print(f"| {task} | {1e3 * took[task]:.2f} | {times_as_long(seconds, 'paper', 'modern'):.2f} |", flush=True)
    print(f"\nsample / log_prob of modern: {took['sample'] / took['log_prob']:.2f}")


if __name__ == "__main__":
    main()
