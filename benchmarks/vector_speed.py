"""Flows of vectors against other libraries' of the same architecture: python -m benchmarks.vector_speed [--help]

One process, one thread, CPU time; the contestants take turns, round after round. Ours stands there twice: couplings alone, with
networks as the others have them, and as `realnvp.vector_flow` is, whitening, mixings and sines and all. The table has medians of
the ratio to our couplings alone of the same round: above 1 they are slower.
"""

import argparse
import statistics
from dataclasses import replace

import torch

from benchmarks.turns import in_turns, tasks, times_as_long
from benchmarks.vector_peers import PEERS
from realnvp.bijections import AffineCoupling, Chain
from realnvp.config import ModelConfig
from realnvp.flows.build import vector_flow
from realnvp.flows.flow import Flow

WHOLE = "vector_flow"
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
    others = [WHOLE, *args.against]
    print(f"| columns | task | our couplings, ms | {' | '.join(others)} |\n|---|---|---|{'---|' * len(others)}")
    for dim in args.dims:
        x, model = torch.randn(args.batch, dim), ModelConfig("vector", width=64, num_blocks=2, frequency=6.0)
        flow, bare = ours(model, dim), ours(replace(model, frequency=0.0), dim)
        bare.bijection = Chain(layer for layer in bare.bijection.bijections if isinstance(layer, AffineCoupling))
        contest = {"couplings": tasks(bare, bare.log_prob, bare.sample, x), WHOLE: tasks(flow, flow.log_prob, flow.sample, x)}
        for name in args.against:
            peer = PEERS[name](model, dim)
            contest[name] = tasks(peer, peer, peer.sample, x)
        for task in contest[WHOLE]:
            turn = {name: calls[task] for name, calls in contest.items()}
            seconds = in_turns(turn, rounds=args.rounds, unmeasured=2, repeats=CALLS)
            cells = [f"{times_as_long(seconds, who, 'couplings'):.2f}" for who in others]
            print(f"| {dim} | {task} | {1e3 * statistics.median(seconds['couplings']):.2f} | {' | '.join(cells)} |", flush=True)


def ours(model: ModelConfig, dim: int) -> Flow:
    """A fresh flow of vectors of this size."""
    couplings, width, blocks = model.num_couplings, model.width, model.num_blocks
    return vector_flow(dim, num_couplings=couplings, width=width, num_blocks=blocks, frequency=model.frequency)


if __name__ == "__main__":
    main()
