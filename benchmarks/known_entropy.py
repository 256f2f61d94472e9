"""How far is a trained flow from the truth? python -m benchmarks.known_entropy [--help]

KL(truth, flow) is the mean of log p(x) - log q(x) over fresh samples x of a distribution whose density p is known. Ours is what
`realnvp train table` makes of a file of samples, at the best of some frequencies of its sines; the others train on the same
samples for as long, at the best of some learning rates. Time is CPU time of one thread, evaluations and reading included in ours.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.known import KNOWN, Array, Known
from realnvp.config import PRESETS, Config
from realnvp.evaluation.likelihood import log_probs
from realnvp.files.environment import present_sitting
from realnvp.files.records import fields_of
from realnvp.files.saved import load_flow
from realnvp.noise import Purpose, generator
from realnvp.training.train import train

Found = tuple[float, float, float]
"""KL in nats, its standard error, and seconds of training."""
FRESH = 500_000


def divergence(known: Known, log_q: Callable[[Array], Array], seed: int) -> tuple[float, float]:
    """KL(truth, flow) in nats, and its standard error."""
    x = known.sample(FRESH, np.random.default_rng([seed, 1]))
    gaps = known.log_prob(x) - log_q(x)
    return float(gaps.mean()), float(gaps.std() / math.sqrt(FRESH))


def ours(known: Known, rows: Array, config: Config) -> Found:
    """Of what `realnvp train table` makes of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        source, run = Path(folder, "rows.npy"), Path(folder, "run")
        np.save(source, rows)
        began = time.process_time()
        train(replace(config, data=replace(config.data, source=str(source))), run, device="cpu")
        seconds = time.process_time() - began
        flow = load_flow(run)
    return *divergence(known, lambda x: log_probs(flow, x).numpy(), config.seed), seconds


def theirs(known: Known, rows: Array, config: Config, name: str, *, rate: float, seconds: float) -> Found:
    """Of another library's flow, which trains for so many seconds."""
    from benchmarks.vector_peers import PEERS

    torch.manual_seed(config.seed)
    model = PEERS[name](config.model, rows.shape[1])
    mean, deviation = rows.mean(0), rows.std(0)
    x = torch.from_numpy((rows - mean) / deviation).float()
    fit(model, x, config, rate=rate, seconds=seconds)
    model.double().eval()

    @torch.no_grad()
    def log_q(points: Array) -> Array:
        parts = torch.from_numpy((points - mean) / deviation).split(1000)
        return torch.cat([model(part) for part in parts]).numpy() - np.log(deviation).sum()

    return *divergence(known, log_q, config.seed), seconds


def fit(model: nn.Module, x: Tensor, config: Config, *, rate: float, seconds: float) -> None:
    """Adam with this rate, which falls to 0 in a line over the time; batches and clip are the preset's."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    size, began, step = config.train.batch_size, time.process_time(), 0
    per_epoch = len(x) // size
    while (done := (time.process_time() - began) / seconds) < 1:
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = torch.from_numpy(generator(config.seed, Purpose.ORDER, round=epoch).permutation(len(x)))
        optimizer.param_groups[0]["lr"] = rate * min(1, done / 0.02) * (1 - done)
        loss = -model(x[order[place * size : (place + 1) * size]]).mean()
        optimizer.zero_grad()
        loss.backward()
        if nn.utils.clip_grad_norm_(model.parameters(), config.train.clip).isfinite():
            optimizer.step()
        step += 1


def best(runs: list[Found]) -> Found:
    """The one of least KL."""
    return min(runs, key=lambda run: run[0] if math.isfinite(run[0]) else math.inf)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", choices=[[], *KNOWN], help="all when none is named")
    parser.add_argument("--against", nargs="*", default=[], choices=["zuko", "nflows"], help="needs benchmarks/peers.txt")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 5e-3], help="of the others, the best of which counts")
    parser.add_argument("--frequencies", nargs="+", type=float, default=[6.0, 0.0], help="of our sines, the best of which counts")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of which a tenth each is held out for validation and test")
    parser.add_argument("--steps", type=int, default=PRESETS["table"].train.max_steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file with all figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    preset = PRESETS["table"]
    config = replace(preset, train=replace(preset.train, max_steps=args.steps, tracker="none"), seed=args.seed)
    results = []
    print("| set | entropy | whose | KL to the truth, nats | CPU s |\n|---|---|---|---|---|")
    for name in args.sets or KNOWN:
        known = KNOWN[name]()
        rows = known.sample(args.rows, np.random.default_rng([args.seed, 0]))
        models = [replace(config.model, frequency=frequency) for frequency in args.frequencies]
        found = {"realnvp": best([ours(known, rows, replace(config, model=model)) for model in models])}
        for peer in args.against:
            seconds = found["realnvp"][2]
            found[peer] = best([theirs(known, rows, config, peer, rate=rate, seconds=seconds) for rate in args.rates])
        for who, (kl, error, seconds) in found.items():
            print(f"| {name} | {known.entropy:.4f} | {who} | {kl:.5f} +- {error:.5f} | {seconds:.0f} |", flush=True)
            results.append({"set": name, "who": who, "kl": kl, "error": error, "seconds": seconds})
    if args.out:
        about = {"command": sys.argv, "results": results, "environment": fields_of(present_sitting())}
        args.out.write_text(json.dumps(about, indent=2))


if __name__ == "__main__":
    main()
