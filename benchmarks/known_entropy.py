"""How far is a trained flow from the truth? python -m benchmarks.known_entropy [--help]

KL(truth, flow) is the mean of log p(x) - log q(x) over fresh samples x of a distribution whose
density p is known. The flow is what `realnvp train table` makes of a file of samples, at the best
of some frequencies of its sines. Time is CPU time of one thread, evaluations and reading included.
"""

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.known import KNOWN, Array, Known
from realnvp.config import PRESETS, Config
from realnvp.evaluation.likelihood import log_probs
from realnvp.io.pretrained import load_flow
from realnvp.training.loop import train

Found = tuple[float, float, float]
"""KL in nats, its standard error, and seconds of training."""
FRESH = 500_000


def trained(known: Known, rows: Array, config: Config) -> Found:
    """KL of what `realnvp train table` makes of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        source, run = Path(folder, "rows.npy"), Path(folder, "run")
        np.save(source, rows)
        began = time.process_time()
        train(replace(config, data=replace(config.data, source=str(source))), run, device="cpu")
        seconds = time.process_time() - began
        flow = load_flow(run)
    x = known.sample(FRESH, np.random.default_rng([config.seed, 1]))
    gaps = known.log_prob(x) - log_probs(flow, x).numpy()
    return float(gaps.mean()), float(gaps.std() / math.sqrt(FRESH)), seconds


def best(runs: list[Found]) -> Found:
    """The run of least KL."""
    return min(runs, key=lambda run: run[0] if math.isfinite(run[0]) else math.inf)


def main() -> None:
    """Measure and print."""
    table, how = PRESETS["table"], argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("sets", nargs="*", choices=[[], *KNOWN], help="all when none is named")
    parser.add_argument("--frequencies", nargs="+", type=float, default=[6.0, 0.0], metavar="F")
    parser.add_argument("--rows", type=int, default=1_000_000, help="a fifth of them is held out")
    parser.add_argument("--steps", type=int, default=table.train.max_steps)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    schedule = replace(table.train, max_steps=args.steps, tracker="none")
    config = replace(table, train=schedule, seed=args.seed)
    print("| set | entropy | KL to the truth, nats | CPU s |\n|---|---|---|---|")
    for name in args.sets or KNOWN:
        known = KNOWN[name]()
        rows = known.sample(args.rows, np.random.default_rng([args.seed, 0]))
        models = [replace(config.model, sine_std=sine_std) for sine_std in args.frequencies]
        kl, error, seconds = best([trained(known, rows, replace(config, model=m)) for m in models])
        cells = f"{known.entropy:.4f} | {kl:.5f} +- {error:.5f} | {seconds:.0f}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
