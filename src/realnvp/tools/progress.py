"""Progress on stderr: a bar in a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

SECONDS_BETWEEN_LINES = 5.0


class Report(Protocol):
    """Takes the steps done, a few words, and the number of all steps if it has become known."""

    def __call__(self, done: int, words: str = "", total: int | None = None) -> None: ...


@contextmanager
def progress(what: str, total: int, *, start: int = 0, enabled: bool = True) -> Iterator[Report]:
    """Context: a function that reports progress. The time left is estimated from `start` on."""
    if not enabled:
        yield lambda done, words="", total=None: None
    elif sys.stderr.isatty():
        yield from _bar(what, total, start)
    else:
        yield _lines(what, total, start)


def chunks(count: int, size: int, report: Callable[[int], None] | None = None) -> Iterator[slice]:
    """slice(0, size), slice(size, 2 size), ..., up to count.

    report: told how many are done, whenever the caller asks for the next chunk.
    """
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield slice(start, stop)
        if report:
            report(stop)


def _bar(what: str, total: int, start: int) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=start, words="")
        yield lambda done, words="", total=None: bar.update(
            task, completed=done, words=words, total=total
        )


def _lines(what: str, total: int, start: int) -> Report:
    began = time.monotonic()
    last, known = began, total

    def report(done: int, words: str = "", total: int | None = None) -> None:
        nonlocal last, known
        known = total or known
        now = time.monotonic()
        finished = done >= known and last > began  # less than five seconds: no line at all
        if now - last < SECONDS_BETWEEN_LINES and not finished:
            return
        last = now
        left = (now - began) / max(done - start, 1) * (known - done)
        print(
            f"{what} {done}/{known}  {words}  {duration(left)} left".replace("    ", "  "),
            file=sys.stderr,
            flush=True,
        )

    return report


def duration(seconds: float) -> str:
    """'1h 02m', '3m 20s' or '7s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}h {minutes:02d}m"
        if hours
        else f"{minutes}m {rest:02d}s"
        if minutes
        else f"{rest}s"
    )
