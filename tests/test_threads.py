"""A training that resumes with other threads or another precision warns."""

import dataclasses
import json
import warnings
from pathlib import Path

import pytest
import torch

from realnvp.config import Config
from realnvp.training.loop import train


def test_a_training_that_goes_on_otherwise_says_so(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of a step depend on the number of threads, on the device and on the networks'
    arithmetic.
    """
    short = dataclasses.replace(
        tiny, train=dataclasses.replace(tiny.train, max_steps=1, precision="auto", tracker="none")
    )
    longer, longest = (
        dataclasses.replace(short, train=dataclasses.replace(short.train, max_steps=n))
        for n in (2, 3)
    )
    monkeypatch.setattr("realnvp.training.loop.has_bfloat16", lambda device: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(short, tmp_path / "run", device="cpu")
        train(longer, tmp_path / "run", device="cpu")
    sessions = json.loads((tmp_path / "run/environment.json").read_text())
    assert [session["precision"] for session in sessions] == ["float32"] * 2
    monkeypatch.setattr("realnvp.training.loop.has_bfloat16", lambda device: True)
    torch.set_num_threads(2)
    try:
        with pytest.warns(
            UserWarning, match="run: precision float32 -> bfloat16, threads 1 -> 2: it goes on"
        ):
            train(longest, tmp_path / "run", device="cpu")
    finally:
        torch.set_num_threads(1)


def test_a_run_of_the_first_version_is_not_complained_of(tiny: Config, tmp_path: Path) -> None:
    """Its environment.json does not say in which precision it computed."""
    short = dataclasses.replace(
        tiny, train=dataclasses.replace(tiny.train, max_steps=1, tracker="none")
    )
    train(short, tmp_path / "run", device="cpu")
    path = tmp_path / "run/environment.json"
    sessions = json.loads(path.read_text())
    del sessions[0]["precision"]
    path.write_text(json.dumps(sessions))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(
            dataclasses.replace(short, train=dataclasses.replace(short.train, max_steps=2)),
            tmp_path / "run",
            device="cpu",
        )
