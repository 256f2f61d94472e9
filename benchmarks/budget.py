"""A training within a budget of CPU time of one thread, so that other work on the machine does not decide what comes out."""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import realnvp.training.train
from realnvp.config import Config
from realnvp.flows.flow import Flow

NEVER = 10**6  # steps


class Trained(NamedTuple):
    """What came of it."""

    flow: Flow
    """As it is at the end, in eval mode."""
    steps: int
    metrics: list[dict[str, Any]]
    """The lines of metrics.jsonl."""


def trained(config: Config, minutes: float, *, eval_every: int = NEVER) -> Trained:
    """The flow after so many CPU minutes of this process, which is then on one thread; evaluations do not count."""
    torch.set_num_threads(1)
    realnvp.training.train.clock = time.process_time
    never = {"max_steps": None, "eval_every": eval_every, "sample_every": NEVER, "save_every": NEVER}
    config = replace(config, train=replace(config.train, max_minutes=minutes, tracker="none", **never))
    with tempfile.TemporaryDirectory() as folder:
        state = realnvp.training.train.train(config, folder, device="cpu")
        lines = Path(folder, "metrics.jsonl").read_text().splitlines()
        return Trained(realnvp.load_flow(folder, "last"), state.step, [json.loads(line) for line in lines])
