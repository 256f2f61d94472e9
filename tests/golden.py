"""Golden numbers: the curves of three short trainings, and the log-densities of the flows inside the package.

`python -m tests.golden` measures all of them and writes tests/data/golden.json; `python -m tests.golden modern table` those alone.
A change of the code that is meant to keep the mathematics writes nothing here. One that is meant to change a number (how a flow
starts from the data, say) writes that number in the same commit, and says why.
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
from realnvp.train import train
from tests.earlier import curves, fixed

FILE = Path(__file__).parent / "data" / "golden.json"
MODELS = {
    "paper": ("digits", ModelConfig(num_scales=2, width=3, num_blocks=1, momentum=0.9)),
    "modern": ("digits-modern", ModelConfig("modern", num_scales=2, width=4, num_blocks=1, num_couplings=2)),
    "table": ("table", ModelConfig("vector", num_couplings=2, width=6, num_blocks=1, frequency=6.0)),
}
SHIPPED = ("photos-small", "digits-small")


def config(name: str, rows: Path) -> Config:
    """Eight steps of the preset's recipe with a tiny model, in float64; rows is where a table lies."""
    preset, model = MODELS[name]
    chosen = PRESETS[preset]
    data = replace(chosen.data, source=str(rows)) if name == "table" else chosen.data
    steps = {"max_steps": 8, "log_every": 1, "eval_every": 4, "eval_images": 24, "sample_every": 100, "save_every": 100}
    recipe = replace(chosen.train, batch_size=8, moment_batches=2, precision="float64", tracker="none", **steps)  # type: ignore[arg-type]
    return replace(chosen, data=data, model=model, train=recipe, seed=1)


def training(name: str, folder: Path) -> dict[str, Any]:
    """Loss and gradient norm of each step, validation after steps 4 and 8."""
    angle = np.arange(60.0)
    np.save(folder / "rows.npy", np.stack([10 + 2 * np.sin(angle), np.cos(3 * angle) ** 2, np.sin(angle) + 0.3 * angle % 1], 1))
    train(config(name, folder / "rows.npy"), folder / name, device="cpu")
    return curves(folder / name)


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
    stored |= {name: measure(name) for name in sys.argv[1:] or (*MODELS, *SHIPPED)}
    FILE.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
