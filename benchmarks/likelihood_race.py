"""Test bits/dim of presets and of the public copy after equal minutes on one thread.

python -m benchmarks.likelihood_race --minutes 6 --data PATH photos-modern public-copy

PATH holds train.npy, valid.npy and test.npy, uint8 (N, H, W, 3). All are judged on the same images
with the same noise. Run it on an idle machine.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor

import realnvp
from benchmarks.public_copy import PublicCopy
from realnvp.config.fields import Config
from realnvp.config.presets import PRESETS
from realnvp.config.resolve import resolve
from realnvp.data.dataset import channels_first, dequantize
from realnvp.evaluation.likelihood import in_bits_per_dim
from realnvp.random import Purpose, uniform
from realnvp.training.batches import Batches
from realnvp.training.loop import train

NEVER = 10**6  # steps
PUBLIC_COPY = "public-copy"
LogProb = Callable[[Tensor], Tensor]


def configured(preset: str, data: Path, seed: int, minutes: float) -> Config:
    """A preset for these data and minutes."""
    config = PRESETS[preset]
    every = dict.fromkeys(("eval_every", "sample_every", "save_every"), NEVER)
    schedule = replace(config.train, max_steps=None, max_minutes=minutes, tracker="none", **every)
    images = replace(config.data, set="images", source=str(data))
    return replace(config, data=images, train=schedule, seed=seed)


def train_ours(preset: str, data: Path, seed: int, minutes: float) -> tuple[LogProb, int]:
    """log_prob and steps of `realnvp train`."""
    with tempfile.TemporaryDirectory() as folder:
        state = train(configured(preset, data, seed, minutes), folder, device="cpu")
        return realnvp.load_flow(folder, "last").log_prob, state.step


def train_public_copy(data: Path, seed: int, minutes: float) -> tuple[LogProb, int]:
    """log_prob and steps of a training as public copies do it.

    6.3 million parameters, batch 32, Adam, rate 1e-3, norm clipped to 100, 5e-5 on all gains.
    """
    images = np.load(data / "train.npy", mmap_mode="r")
    config = configured("photos", data, seed, minutes)
    config = replace(config, train=replace(config.train, batch_size=32))
    config = resolve(config, (images.shape[3], *images.shape[1:3]))
    torch.manual_seed(seed)
    model = PublicCopy(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    gains = [gain for name, gain in model.named_parameters() if name.endswith("weight_g")]
    batches = Batches(images, config, device=torch.device("cpu"))
    step, began = 0, time.monotonic()
    while time.monotonic() - began < 60 * minutes:
        optimizer.zero_grad()
        loss = -model.log_prob(batches.at(step)).mean()
        (loss + 5e-5 * torch.stack([gain.square().sum() for gain in gains]).sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100)
        optimizer.step()
        step += 1
    return model.eval().log_prob, step


def judge(log_prob: LogProb, images: np.ndarray) -> Tensor:
    """(N,), bits/dim of each image."""
    nats = []
    for indices in np.array_split(np.arange(len(images)), -(-len(images) // 50)):
        pixels = torch.from_numpy(channels_first(images[indices]))
        noise = uniform(pixels.shape[1:], 0, Purpose.EVALUATE, indices=indices)
        with torch.no_grad():
            nats.append(log_prob(dequantize(pixels, noise)).double())
    return in_bits_per_dim(torch.cat(nats), images.shape[1:])


def main() -> None:
    """Run the race; print a line for each preset."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("presets", nargs="+", metavar="PRESET", help=f"or {PUBLIC_COPY}")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = np.load(args.data / "test.npy", mmap_mode="r")[::2]
    print("| preset | steps | bits/dim | over seeds | over images |\n|---|---|---|---|---|")
    for preset in args.presets:
        bits, steps = [], []
        for seed in args.seeds:
            if preset == PUBLIC_COPY:
                log_prob, step = train_public_copy(args.data, seed, args.minutes)
            else:
                log_prob, step = train_ours(preset, args.data, seed, args.minutes)
            bits.append(judge(log_prob, images))
            steps.append(step)
        means = [each.mean().item() for each in bits]
        spread = f"{stdev(means):.3f}" if len(means) > 1 else ""
        error = bits[0].std().item() / math.sqrt(len(images))
        print(f"| {preset} | {mean(steps):.0f} | {mean(means):.3f} | {spread} | {error:.3f} |")


if __name__ == "__main__":
    main()
