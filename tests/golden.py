"""Golden numbers: the curves of short trainings, and log-densities by the flows inside the package.

`python -m tests.golden` measures all of them and writes tests/data/golden.json;
`python -m tests.golden table start` measures those two. A change that keeps the mathematics writes
nothing here. One that means to change a number (how a flow starts from data, say) writes it in the
same commit, and says why.

`modern` starts with the weights of the run of version 0.1.0 in tests/earlier.py, since CPUs differ
in how they start from data: principal axes of what is white already are free. `start` is the first
loss of a start from data, which does not depend on the axes.
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
from realnvp.config import PRESETS, Config, ModelConfig
from realnvp.training.train import train
from tests.earlier import curves, fixed, unpack

FILE = Path(__file__).parent / "data" / "golden.json"
TRAININGS = {
    "paper": ("digits", ModelConfig(num_scales=2, width=3, num_blocks=1, momentum=0.9)),
    "modern": (
        "images-modern",
        ModelConfig(
            "modern", num_scales=2, width=2, num_blocks=1, num_couplings=2, coupling_growth=0.35
        ),
    ),
    "start": (
        "digits-modern",
        ModelConfig("modern", num_scales=2, width=4, num_blocks=1, num_couplings=2),
    ),
    "table": (
        "table",
        ModelConfig("vector", num_couplings=2, width=6, num_blocks=1, frequency=6.0),
    ),
}
SHIPPED = ("photos-small", "digits-small", "photographs")


def config(name: str, source: Path | None) -> Config:
    """Eight steps of the preset's recipe with a tiny model, in float64 (of `start` one step)."""
    preset, model = TRAININGS[name]
    chosen = PRESETS[preset]
    recipe = replace(
        chosen.train,
        max_steps=1 if name == "start" else 8,
        log_every=1,
        eval_every=4,
        eval_images=24,
        batch_size=8,
        moment_batches=2,
        precision="float64",
        tracker="none",
    )
    data = replace(chosen.data, source=str(source)) if source else chosen.data
    return replace(chosen, data=data, model=model, train=recipe, seed=1)


def training(name: str, folder: Path) -> dict[str, Any]:
    """Loss and gradient norm of each step, validation after steps 4 and 8."""
    earlier = unpack("0.1.0", folder) / "modern"
    source = {"modern": earlier / "data", "table": folder / "rows.npy"}.get(name)
    angle = np.arange(60.0)
    np.save(
        folder / "rows.npy",
        np.stack([10 + 2 * np.sin(angle), np.cos(3 * angle) ** 2, 0.3 * angle % 1], axis=1),
    )
    train(
        config(name, source),
        folder / "run",
        device="cpu",
        init_from=earlier if name == "modern" else None,
    )
    found = curves(folder / "run")
    return {"train_bits_per_dim": found["train_bits_per_dim"]} if name == "start" else found


def shipped(name: str) -> list[float]:
    """log_prob of fixed images, all in float64."""
    flow = realnvp.load_flow(name).double()
    with torch.no_grad():
        values: list[float] = flow.log_prob(fixed(flow)).tolist()
    return values


def measure(name: str) -> Any:
    """The numbers of this name."""
    if name in SHIPPED:
        return shipped(name)
    with tempfile.TemporaryDirectory() as folder:
        return training(name, Path(folder))


def main() -> None:
    """Write the numbers that are named, or all."""
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    stored |= {name: measure(name) for name in sys.argv[1:] or (*TRAININGS, *SHIPPED)}
    FILE.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
