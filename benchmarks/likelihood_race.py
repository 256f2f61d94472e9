"""Test bits/dim after equal minutes: presets, with other fields where wanted, and the public copy.

python -m benchmarks.likelihood_race --minutes 6 --data PATH photos photos-modern:model.width=64

PATH holds train.npy, valid.npy and test.npy, uint8 (N, H, W, 3). Each contestant trains in a
process of its own, on one thread, for so many minutes of its CPU time, so that other work on the
machine does not decide. All are judged on the same images with the same noise. Curves on the
validation images, which do not count, are in the JSON lines, by minutes in proportion to steps.
"""

import argparse
import json
import math
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

import realnvp.training.loop
from benchmarks.public_copy import PublicCopy
from realnvp.config import PRESETS, Config, flat, from_json, resolve, to_json
from realnvp.config.units import in_bits_per_dim
from realnvp.random import Purpose, uniform
from realnvp.training.batches import Batches

NEVER = 10**6  # steps
PUBLIC_COPY = "public-copy"
PUBLIC_SIZE = "photos:train.batch_size=32"  # 6.3 million parameters
Trained = tuple[Any, int, float, list[tuple[int, float]]]
"""log_prob, steps, training bits/dim, and the curve: steps, and bits/dim of validation images."""


def configured(variant: str, *, data: Path, seed: int) -> Config:
    """'PRESET' or 'PRESET:field=value,field=value' as a configuration for these data."""
    preset, _, changes = variant.partition(":")
    tree = json.loads(to_json(PRESETS[preset]))
    context = {"seed": str(seed), "data.source": str(data), "data.set": "images"}
    context |= dict(change.split("=") for change in changes.split(",") if change)
    if unknown := context.keys() - flat(PRESETS[preset]).keys():
        raise SystemExit(f"{variant}: no field {', '.join(unknown)}")
    for name, value in context.items():
        *parents, last = name.split(".")
        place = tree
        for parent in parents:
            place = place[parent]
        try:
            place[last] = json.loads(value)
        except ValueError:
            place[last] = value
    return from_json(json.dumps(tree), variant)


def judge(log_prob: Any, images: np.ndarray[Any, Any], *, draws: int) -> torch.Tensor:
    """(N,), bits/dim of each image."""
    nats = torch.zeros(len(images), dtype=torch.float64)
    for start in range(0, len(images), 50):
        indices = np.arange(start, min(start + 50, len(images)))
        x = torch.from_numpy(images[indices]).permute(0, 3, 1, 2).float()
        for draw in range(draws):
            noise = uniform(x.shape[1:], 0, Purpose.EVALUATE, indices=indices, round=draw)
            with torch.no_grad():
                nats[indices] += log_prob(x + noise).double() / draws
    return in_bits_per_dim(nats, tuple(x.shape[1:]))


def train_ours(config: Config, minutes: float, eval_every: int) -> Trained:
    """`realnvp train` for so many CPU minutes of this process; evaluations do not count."""
    realnvp.training.loop.clock = time.process_time
    every = {"eval_every": eval_every, "sample_every": NEVER, "save_every": NEVER}
    schedule = {"max_steps": None, "max_minutes": minutes, "tracker": "none", **every}
    config = replace(config, train=replace(config.train, **schedule))
    with tempfile.TemporaryDirectory() as folder:
        state = realnvp.training.loop.train(config, folder, device="cpu")
        lines = [json.loads(x) for x in Path(folder, "metrics.jsonl").read_text().splitlines()]
        log_prob = realnvp.load_flow(folder, "last").log_prob
    training, validation = "train_bits_per_dim", "validation_bits_per_dim"
    curve = [(line["step"], line[validation]) for line in lines if validation in line]
    last = [line[training] for line in lines if training in line][-10:]
    return log_prob, state.step, mean(last), curve


def train_public_copy(config: Config, data: Path, minutes: float, eval_every: int) -> Trained:
    """Train as public copies do: Adam, rate 1e-3, norm clipped to 100, 5e-5 on all gains."""
    images, validation = (
        np.load(data / f"{part}.npy", mmap_mode="r") for part in ("train", "valid")
    )
    config = resolve(config, (images.shape[3], *images.shape[1:3]))
    torch.manual_seed(config.seed)
    model = PublicCopy(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    gains = [gain for name, gain in model.named_parameters() if name.endswith("weight_g")]
    batches = Batches(images, config, device=torch.device("cpu"))
    spent, step, losses, curve = 0.0, 0, [], []
    while spent < 60 * minutes:
        began = time.process_time()
        optimizer.zero_grad()
        loss = -model.log_prob(batches.at(step)).mean()
        (loss + 5e-5 * torch.stack([gain.square().sum() for gain in gains]).sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        spent += time.process_time() - began
        if step % eval_every == 0:
            bits = judge(model.eval().log_prob, validation, draws=1)
            curve.append((step, bits.mean().item()))
            model.train()
    training = in_bits_per_dim(-mean(losses[-100:]), (3, 32, 32))
    return model.eval().log_prob, step, training, curve


def contest(variant: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """What one contestant reached."""
    torch.set_num_threads(1)
    minutes, public = args.minutes, variant == PUBLIC_COPY
    config = configured(PUBLIC_SIZE if public else variant, data=args.data, seed=seed)
    if public:
        trained = train_public_copy(config, args.data, minutes, args.eval_every)
    else:
        trained = train_ours(config, minutes, args.eval_every)
    log_prob, steps, train_bits, curve = trained
    images = np.load(args.data / f"{args.split}.npy", mmap_mode="r")[:: args.every]
    bits = judge(log_prob, images, draws=args.draws)
    return {
        "variant": variant,
        "seed": seed,
        "minutes": minutes,
        "steps": steps,
        "train_bits_per_dim": train_bits,
        "bits_per_dim": bits.mean().item(),
        "standard_error": bits.std().item() / math.sqrt(len(bits)),
        "worst_image": bits.max().item(),
        "num_images": len(bits),
        "curve": [(round(minutes * step / steps, 2), value) for step, value in curve],
    }


def main() -> None:
    """Run the race; print a JSON line for each contestant, and the table."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument(
        "variants", nargs="+", metavar="VARIANT", help=f"as above, or {PUBLIC_COPY}"
    )
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="how many train side by side")
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--every", type=int, default=2, help="judge on every so many-th image")
    parser.add_argument(
        "--eval-every", type=int, default=NEVER, help="steps between points of the curve"
    )
    parser.add_argument("--draws", type=int, default=1)
    args = parser.parse_args()
    results = []
    spawn = get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        pairs = [(variant, seed) for seed in args.seeds for variant in args.variants]
        for done in as_completed([pool.submit(contest, *pair, args) for pair in pairs]):
            results.append(done.result())
            print(json.dumps(results[-1]), flush=True)
    print_table(args.variants, results)


def print_table(variants: list[str], results: list[dict[str, Any]]) -> None:
    """Means over seeds, as Markdown."""
    print(
        "| variant | seeds | steps | training | bits/dim | over seeds | over images | worst image |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for variant in variants:
        mine = [result for result in results if result["variant"] == variant]
        bits = [result["bits_per_dim"] for result in mine]
        spread = f"{stdev(bits):.3f}" if len(bits) > 1 else ""
        steps, training, error = (
            mean(result[key] for result in mine)
            for key in ("steps", "train_bits_per_dim", "standard_error")
        )
        worst = max(result["worst_image"] for result in mine)
        cells = f"{len(mine)} | {steps:.0f} | {training:.3f} | **{mean(bits):.3f}** | {spread}"
        print(f"| {variant} | {cells} | {error:.3f} | {worst:.2f} |")


if __name__ == "__main__":
    main()
