"""Flows of vectors against other libraries' of the same architecture: python -m benchmarks.vector_speed [--help]

One process, one thread, CPU time; the contestants take turns, round after round. The table has medians of the ratio to ours of
the same round: above 1 they are slower.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.vector_peers import PEERS
from realnvp.config import ModelConfig
from realnvp.models import vector_flow

Tasks = dict[str, Callable[[], object]]
CALLS = 4  # of a task in a row


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", nargs="*", default=[*PEERS], choices=[*PEERS], help="needs benchmarks/peers.txt")
    parser.add_argument("--dims", nargs="+", type=int, default=[2, 16])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| columns | task | ours, ms | " + " | ".join(args.against) + " |\n|---|---|---" + "|---" * len(args.against) + "|")
    for dim in args.dims:
        x, model = torch.randn(args.batch, dim), ModelConfig("vector", width=64, num_blocks=2)
        flow = vector_flow(dim, num_couplings=model.num_couplings, width=model.width, num_blocks=model.num_blocks)
        contest = {"ours": tasks(flow, flow.log_prob, flow.sample, x)}
        for name in args.against:
            peer = PEERS[name](model, dim)
            contest[name] = tasks(peer, peer, peer.sample, x)
        for task in contest["ours"]:
            seconds: dict[str, list[float]] = {name: [] for name in contest}
            for number in range(args.rounds + 2):
                for name, calls in contest.items():
                    began = time.process_time()
                    for _ in range(CALLS):
                        calls[task]()
                    if number > 1:
                        seconds[name].append((time.process_time() - began) / CALLS)
            ratios = [
                statistics.median(a / b for a, b in zip(seconds[who], seconds["ours"], strict=True)) for who in args.against
            ]
            cells = [f"{ratio:.2f}" for ratio in ratios]
            print(f"| {dim} | {task} | {1e3 * statistics.median(seconds['ours']):.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
