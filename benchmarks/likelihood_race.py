"""Test bits/dim after equal minutes: presets, with other fields where wanted, beside the stand-in for the public copy.

python -m benchmarks.likelihood_race --minutes 6 --data PATH photos photos-modern photos-modern:model.width=64,train.lr=1e-3

PATH holds train.npy, valid.npy and test.npy, uint8 (N, H, W, 3). Each contestant trains in a process of its own, on one thread,
for so many minutes of that process' CPU time, so that other work on the machine does not decide. All are judged on the same
images with the same noise; curves on the validation images, which do not count, are in the JSON, by minutes in proportion to
steps. Rounds go over the contestants one seed after the other; --jobs says how many train side by side.
"""

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from benchmarks.budget import NEVER, trained
from benchmarks.public_copy import PublicCopy
from realnvp.config import PRESETS, Config, flat, from_json, resolve, to_json
from realnvp.config.units import in_bits_per_dim
from realnvp.noise import Purpose, uniform
from realnvp.training.batches import Batches

Curve = list[tuple[int, float]]
"""Steps, and bits/dim of the validation images then."""
PUBLIC_COPY = "public-copy"
PUBLIC_SIZE = "photos:train.batch_size=32"  # 6.3 million parameters


def configured(variant: str, *, data: Path, seed: int) -> Config:
    """'PRESET' or 'PRESET:field=value,field=value' as a configuration for these data."""
    preset, _, changes = variant.partition(":")
    tree = json.loads(to_json(PRESETS[preset]))
    given = {"seed": seed, "data.source": str(data), "data.set": "images"}
    for name, value in (given | dict(change.split("=") for change in changes.split(",") if change)).items():
        if name not in flat(PRESETS[preset]):
            raise SystemExit(f"{variant}: no field {name}")
        *parents, last = name.split(".")
        place = tree
        for parent in parents:
            place = place[parent]
        place[last] = _parsed(value)
    return from_json(json.dumps(tree), variant)


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


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


def train_public_copy(config: Config, data: Path, minutes: float, eval_every: int) -> tuple[Any, int, float, Curve]:
    """The stand-in, trained as its originals are: Adam, rate 1e-3, norm clipped to 100, penalty 5e-5 on all gains."""
    images, validation = (np.load(data / f"{split}.npy", mmap_mode="r") for split in ("train", "valid"))
    config = resolve(config, (images.shape[3], *images.shape[1:3]))
    torch.manual_seed(config.seed)
    model = PublicCopy(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    gains = [parameter for name, parameter in model.named_parameters() if name.endswith("weight_g")]
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
            curve.append((step, judge(model.eval().log_prob, validation, draws=1).mean().item()))
            model.train()
    return model.eval().log_prob, step, mean(losses[-100:]), curve


def contest(
    variant: str, seed: int, data: Path, minutes: float, draws: int, split: str, every: int, eval_every: int
) -> dict[str, Any]:
    """What one contestant reached."""
    torch.set_num_threads(1)
    public = variant == PUBLIC_COPY
    config = configured(PUBLIC_SIZE if public else variant, data=data, seed=seed)
    if public:
        log_prob, steps, loss, curve = train_public_copy(config, data, minutes, eval_every)
        train_bits = in_bits_per_dim(-loss, (3, 32, 32))
    else:
        flow, steps, lines = trained(config, minutes, eval_every=eval_every)
        log_prob = flow.log_prob
        train_bits = mean([line["train_bits_per_dim"] for line in lines if "train_bits_per_dim" in line][-10:])
        key = "validation_bits_per_dim"
        curve = [(line["step"], line[key]) for line in lines if key in line]
    bits = judge(log_prob, np.load(data / f"{split}.npy", mmap_mode="r")[::every], draws=draws)
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
    """Run the race and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", metavar="VARIANT", help=f"a preset, with changes after a colon, or {PUBLIC_COPY}")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--every", type=int, default=2, help="judge on every so many-th image")
    parser.add_argument(
        "--eval-every", type=int, default=NEVER, help="steps after which a point of the validation curve is taken"
    )
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file, one line for each contestant, appended")
    args = parser.parse_args()
    how = (args.data, args.minutes, args.draws, args.split, args.every, args.eval_every)
    results = []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = [pool.submit(contest, variant, seed, *how) for seed in args.seeds for variant in args.variants]
        for done in as_completed(waiting):
            results.append(done.result())
            line = json.dumps(results[-1])
            print(line, flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(line + "\n")
    print_table(args.variants, results)


def print_table(variants: list[str], results: list[dict[str, Any]]) -> None:
    """Means over seeds, as Markdown."""
    print("| variant | seeds | steps | training bits/dim | bits/dim | deviation over seeds | error over images | worst image |")
    print("|---|---|---|---|---|---|---|---|")
    for variant in variants:
        mine = [result for result in results if result["variant"] == variant]
        bits = [result["bits_per_dim"] for result in mine]
        spread = f"{stdev(bits):.3f}" if len(bits) > 1 else ""
        averages = [mean(result[key] for result in mine) for key in ("steps", "train_bits_per_dim", "standard_error")]
        steps, training, error = averages
        worst = max(result["worst_image"] for result in mine)
        cells = f"{len(mine)} | {steps:.0f} | {training:.3f} | **{mean(bits):.3f}** | {spread} | {error:.3f} | {worst:.2f}"
        print(f"| {variant} | {cells} |")


if __name__ == "__main__":
    main()
