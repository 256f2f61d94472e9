"""One command of a training: whether the run directory is its own, and how it stops."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from realnvp.config import MAY_CHANGE, Config, differences, flat, to_json
from realnvp.io.checkpoint import TrainState
from realnvp.io.files import fields_of, remove_stale, write_text
from realnvp.io.run_dir import RunDir, current_session


class TrainingStopped(Exception):
    """A signal asked the training to stop; it has saved a checkpoint."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; the same command goes on from there")
        self.exit_code = 128 + signum


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Context: a list gets the number of a SIGINT or SIGTERM that comes. A second acts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return
    old = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def receive(signum: int, frame: Any) -> None:
        received.append(signum)
        signal.signal(signum, old[signal.Signals(signum)])
        # Not print: the signal may have come within a write to sys.stderr.
        os.write(2, b"\nrealnvp: stopping after this step\n")

    for signum in old:
        signal.signal(signum, receive)
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def check_run_dir(config: Config, files: RunDir) -> None:
    """ValueError: a training in this folder would write over files that are not its own."""
    source = config.data.source and os.path.realpath(config.data.source)
    if source in (os.path.realpath(files.path), os.path.realpath(files.data)):
        raise ValueError(f"{files.path}: is also data.source; choose another run directory")
    if not files.begun and files.metrics_file.exists():
        raise ValueError(f"{files.metrics_file}: is not of this training")


def check_unchanged(config: Config, files: RunDir) -> None:
    """ValueError: the run was started with another configuration, apart from `MAY_CHANGE`.

    config: resolved.
    """
    if not files.begun or not files.config_file.exists():
        return
    begun = files.config
    was, now = flat(begun), flat(config)
    changed = [
        f"{name} was {was.get(name)}, not {now.get(name)}"
        for name in differences(begun, config)
        if name not in MAY_CHANGE
    ]
    if changed:
        raise ValueError(f"{files.config_file}: {'; '.join(changed)}")


def begin_session(config: Config, files: RunDir, state: TrainState, **where: Any) -> None:
    """Write config.json, environment.json with this session, metrics.jsonl without later steps.

    A configuration that somebody wrote there is kept as config.given.json.
    where: the fields of the session that its training knows, such as device and precision.
    """
    for folder in (files.models, files.checkpoints, files.samples):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
    sessions = files.sessions if files.sessions_file.exists() else []
    if not sessions and files.config_file.exists():
        files.config_file.replace(files.path / "config.given.json")
    sessions.append(current_session(from_step=state.step, **where))
    write_text(files.config_file, to_json(config))
    write_text(files.sessions_file, json.dumps([*map(fields_of, sessions)], indent=2) + "\n")
    write_text(files.metrics_file, "".join(_metrics_until(state, files)))


def _metrics_until(state: TrainState, files: RunDir) -> Iterator[str]:
    """Lines of metrics.jsonl up to a state; a resumed training writes the later ones again."""
    path = files.metrics_file
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        if not line.endswith("\n"):  # a process was killed while it wrote the line
            continue
        entry = json.loads(line)
        is_evaluation = "validation_standard_error" in entry
        if (entry["step"], is_evaluation) <= (state.step, not state.pending):
            yield line
