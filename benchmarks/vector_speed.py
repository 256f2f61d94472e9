"""Flows of vectors against other libraries' of the same architecture: python -m benchmarks.vector_speed [--help]

One process, one thread, CPU time; the contestants take turns, round after round. The table has medians of the ratio to ours of
the same round: above 1 they are slower.
"""

import argparse
import statistics

import torch

from benchmarks.turns import in_turns, tasks, times_as_long
from benchmarks.vector_peers import PEERS
from realnvp.config import ModelConfig
from realnvp.models import vector_flow

CALLS = 4  # of a task in a row


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
            turn = {name: calls[task] for name, calls in contest.items()}
            seconds = in_turns(turn, rounds=args.rounds, unmeasured=2, repeats=CALLS)
            cells = [f"{times_as_long(seconds, who, 'ours'):.2f}" for who in args.against]
            print(f"| {dim} | {task} | {1e3 * statistics.median(seconds['ours']):.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
