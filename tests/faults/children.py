"""Commands in processes of their own, forked from this one, which has loaded all that they need: a
new Python takes seconds.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

import realnvp.figures  # noqa: F401
from realnvp.cli.main import run

torch.set_num_threads(1)
LIMIT = 600.0  # seconds: none of these commands takes more than a few on an idle machine


class Child:
    """A realnvp command at work; what it prints goes to a file."""

    def __init__(
        self, argv: Sequence[str | Path], log: Path, first: Callable[[], object] = lambda: None
    ) -> None:
        """first: called in the child before the command, to prepare its fault."""
        self.log = log
        self.code: int | None = None
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become([*map(str, argv)], log, first)

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code, minus the signal if one ended it; None if it goes on after so many seconds from its start.

        Where no seconds are given and it hangs, it is ended and its log tells where it was.
        """
        limit = LIMIT if seconds is None else seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() - self.began <= limit:
                time.sleep(0.001)
            elif seconds is not None:
                return None
            else:
                os.kill(self.pid, signal.SIGCONT)
                os.kill(self.pid, signal.SIGABRT)
                self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self, after: float, signum: int = signal.SIGKILL) -> float | None:
        """How long it went on after the signal, which comes so many seconds after its start; None
        if it had ended well before.
        """
        if self.wait(after) is None:
            os.kill(self.pid, signum)
        sent = time.monotonic()
        assert self.wait() in (0, -signum, 128 + signum), self.log.read_text()
        return None if self.code == 0 else time.monotonic() - sent

    def end(self) -> None:
        """Kill it if it is still there."""
        if self.wait(0) is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def succeed(self) -> float:
        """How many seconds it took; AssertionError with its words if it failed."""
        assert self.wait() == 0, self.log.read_text()
        return time.monotonic() - self.began

    def complain(self, *words: str) -> str:
        """Its words; AssertionError if it does not exit with 2 and one line that has all of these
        words.
        """
        code, said = self.wait(), self.log.read_text()
        lines = [line for line in said.splitlines() if line.startswith("realnvp: error: ")]
        assert (code, len(lines)) == (2, 1), said
        assert all(word in lines[0] for word in words), (words, lines[0])
        return lines[0]


def _become(argv: list[str], log: Path, first: Callable[[], object]) -> None:
    """Run the command in this process and end it."""
    code = 70
    with contextlib.suppress(BaseException):
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        faulthandler.enable(descriptor)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2)
        )
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        try:
            first()
            code = run(argv)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
    os._exit(code)
