"""The commands that faults happen to, small, and what each of them writes."""

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from realnvp.config import Config, ImageData, ModelConfig, TrainConfig, to_json
from realnvp.io.files import numbered
from realnvp.training.loop import train

SAVE_EVERY = 3
EVERY = {"log_every": 1, "eval_every": 4, "sample_every": 6, "save_every": SAVE_EVERY}
TINY = Config(
    "digits",
    ImageData("digits", shape=(1, 8, 8), levels=17),
    ModelConfig(num_scales=1, width=4, num_blocks=0),
    TrainConfig(
        max_steps=14, batch_size=8, eval_images=20, moment_batches=20, tracker="none", **EVERY
    ),
)
Content = dict[str, bytes]


class Subject(NamedTuple):
    """A command, whose last word is to be the place where it writes."""

    command: Sequence[str | Path]
    wrote: Callable[[Path], Content]
    """All that must be equal, to the bit, however often the command was stopped."""


@cache
def warm() -> None:
    """Train once in this process, which then has loaded all that its children need."""
    with tempfile.TemporaryDirectory() as folder:
        train(TINY, folder, device="cpu")


def training(folder: Path) -> Subject:
    """A training of TINY."""
    (folder / "config.json").write_text(to_json(TINY))
    return Subject(
        ("train", "--config", folder / "config.json", "--device", "cpu", "--run-dir"), _of_training
    )


def figures(folder: Path) -> Subject:
    """Figures of a run, with their arrays."""
    train(TINY, folder / "run", device="cpu")
    return Subject(
        ("figures", folder / "run", "--only", "samples", "--only", "manifold", "--arrays", "--out"),
        files_of,
    )


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "training": training,
    "figures": figures,
}


def files_of(folder: Path) -> Content:
    """All files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _of_training(run: Path) -> Content:
    content = {name: data for name, data in files_of(run).items() if name != "environment.json"}
    lines = [json.loads(line) for line in content.pop("metrics.jsonl").splitlines()]
    timeless = [
        {key: value for key, value in line.items() if "second" not in key} for line in lines
    ]
    # Of checkpoints the last counts, since the one before is that of the last stop, if one came;
    # its state holds seconds.
    *before, last = numbered(run / "checkpoints", "step")
    content = {name: data for name, data in content.items() if "checkpoints" not in name}
    content |= {f"checkpoint {len(before)}": (last / "state.safetensors").read_bytes()}
    return content | {"metrics.jsonl": json.dumps(timeless).encode()}


def differences(found: Content, expected: Content) -> list[str]:
    """The files that are missing, are too much or differ."""
    return sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
