"""Signals that ask a training to stop."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TrainingStopped(Exception):
    """A signal asked the training to stop; it has saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; the same command goes on from there")
        self.exit_code = 128 + signum


@contextmanager
def stop_signals(*, aloud: bool) -> Iterator[list[int]]:
    """Context: a list gets the number of a SIGINT or SIGTERM that comes. A second acts at once.

    aloud: say so, since a step may take a minute.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return

    def receive(signum: int, frame: Any) -> None:
        received.append(signum)
        if aloud:  # written past sys.stderr, in which the signal may have come
            os.write(
                2, b"\nrealnvp: stopping after this step, and saving; a second time: at once\n"
            )
        signal.signal(
            signum, signal.SIG_DFL if signum == signal.SIGTERM else signal.default_int_handler
        )

    old = {signum: signal.signal(signum, receive) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
