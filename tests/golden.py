"""Golden numbers: the curves of short trainings, and densities and samples of pretrained flows.

`python -m tests.golden` measures all of them and writes tests/data/golden.json;
`python -m tests.golden table start` measures those two. A change that keeps the mathematics writes
nothing here. A change of a number goes with its golden number into one commit, with the reason.

`start` is the first loss after a data-dependent initialization: later steps depend on the principal
axes of whitened data, which CPUs find differently.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import realnvp
from realnvp.config.fields import Config, ModelConfig
from realnvp.config.presets import PRESETS
from realnvp.training.loop import train

FILE = Path(__file__).parent / "data" / "golden.json"
TRAININGS = {
    "paper": ("digits", ModelConfig(num_scales=2, width=3, num_blocks=1, momentum=0.9)),
    "start": (
        "digits-modern",
        ModelConfig("modern", num_scales=2, width=4, num_blocks=1, num_couplings=2),
    ),
    "table": ("table", ModelConfig("vector", num_couplings=2, width=6, num_blocks=1, sine_std=6.0)),
}
PRETRAINED = ("photos-32", "digits-8", "photos-full")


def config(name: str, source: Path | None) -> Config:
    """Eight steps of the preset's recipe with a tiny model, in float64 (of `start` one step)."""
    preset, model = TRAININGS[name]
    chosen = PRESETS[preset]
    few: dict[str, Any] = {
        "max_steps": 1 if name == "start" else 8,
        "log_every": 1,
        "eval_every": 4,
    }
    few |= {"eval_images": 24, "batch_size": 8, "moment_batches": 2, "precision": "float64"}
    recipe = replace(chosen.train, tracker="none", **few)
    data = replace(chosen.data, source=str(source)) if source else chosen.data
    return replace(chosen, data=data, model=model, train=recipe, seed=1)


def training(name: str, folder: Path) -> dict[str, Any]:
    """Loss and gradient norm of each step, validation after steps 4 and 8."""
    angle = np.arange(60.0)
    rows = np.stack([10 + 2 * np.sin(angle), np.cos(3 * angle) ** 2, 0.3 * angle % 1], axis=1)
    np.save(folder / "rows.npy", rows)
    source = folder / "rows.npy" if name == "table" else None
    train(config(name, source), folder / "run", device="cpu")
    found = curves(folder / "run")
    return {"train_bits_per_dim": found["train_bits_per_dim"]} if name == "start" else found


def curves(folder: Path) -> dict[str, list[float]]:
    """{name: its values in metrics.jsonl}, without the times."""
    found: dict[str, list[float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for name in entry.keys() - {"step", "seconds", "images_per_second", "rows_per_second"}:
            if entry["step"]:
                found.setdefault(name, []).append(entry[name])
    return dict(sorted(found.items()))


def fixed(flow: realnvp.Flow) -> torch.Tensor:
    """Three images (v + u) from a formula: no generator, no file."""
    assert flow.config is not None
    shape, levels = flow.config.shape, flow.config.levels
    ramp = torch.arange(3 * int(np.prod(shape)), dtype=torch.float64).reshape(3, *shape)
    return (levels - 1) * (0.5 + 0.5 * (0.11 * ramp).sin()) + 0.5


def pretrained(name: str) -> dict[str, list[float]]:
    """log_prob of fixed images, and two samples of seed 3, all in float64."""
    flow = realnvp.load_flow(name).double()
    with torch.no_grad():
        log_prob, samples = flow.log_prob(fixed(flow)), flow.sample(2, seed=3).flatten()
    return {
        "log_prob": log_prob.tolist(),
        "samples": [*samples[:: len(samples) // 7][:7].tolist(), samples.abs().sum().item()],
    }


def measure(name: str) -> Any:
    """The numbers of this name."""
    if name in PRETRAINED:
        return pretrained(name)
    with tempfile.TemporaryDirectory() as folder:
        return training(name, Path(folder))


def main() -> None:
    """Write the numbers that are named, or all."""
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    stored |= {name: measure(name) for name in sys.argv[1:] or (*TRAININGS, *PRETRAINED)}
    FILE.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
