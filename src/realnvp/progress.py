"""Progress on stderr: a bar on a terminal, elsewhere a plain line every so often.

Loops name their progress with `track` or `track_slices`. Only the outermost of them is shown, and
only inside `show_progress`, which the commands enter and library code does not.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")
FIRST_LINE = 5.0  # seconds; each pause is twice the one before
LONGEST_PAUSE = 300.0


@dataclass
class _Display:
    busy: bool = False  # whether a loop is being shown
    status: str = ""


_display: ContextVar[_Display | None] = ContextVar("display", default=None)


@contextmanager
def show_progress(enabled: bool = True) -> Iterator[None]:
    """Context: show the outermost `track` or `track_slices` of this thread."""
    token = _display.set(_Display() if enabled else None)
    try:
        yield
    finally:
        _display.reset(token)


def track(
    items: Iterable[T], description: str, *, total: int | None = None, start: int = 0
) -> Iterator[T]:
    """The items, counted on stderr from `start` to `total`; None: len(items), or unknown."""
    if total is None and isinstance(items, Sized):
        total = start + len(items)
    with counter(description, total, start) as advance:
        for item in items:
            yield item
            advance(1)


def track_slices(count: int, size: int, description: str = "") -> Iterator[slice]:
    """slice(0, size), slice(size, 2 size), ... up to count; progress is counted in entries."""
    with counter(description, count) as advance:
        for first in range(0, count, size):
            last = min(first + size, count)
            yield slice(first, last)
            advance(last - first)


def set_status(text: str) -> None:
    """Show a text, such as a loss, beside the progress that is shown."""
    if display := _display.get():
        display.status = text


@contextmanager
def counter(description: str, total: int | None, start: int = 0) -> Iterator[Callable[[int], None]]:
    """Context: a function that counts so many more entries, from `start`, and shows the count."""
    display = _display.get()
    if display is None or display.busy:
        yield lambda count: None
        return
    display.busy, display.status = True, ""
    try:
        if not sys.stderr.isatty():
            yield _lines(description, total, start, display)
            return
        from rich import progress
        from rich.console import Console

        columns = (
            *(progress.TextColumn("{task.description}"), progress.BarColumn()),
            *(progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[status]}")),
            *(progress.TimeElapsedColumn(), progress.TimeRemainingColumn()),
        )
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=total, completed=start, status="")
            yield lambda count: bar.update(task, advance=count, status=display.status)
    finally:
        display.busy = False


def _lines(
    description: str, total: int | None, start: int, display: _Display
) -> Callable[[int], None]:
    """A function that counts so many more entries and prints a line when one is due."""
    done, began, pause = start, time.monotonic(), FIRST_LINE
    due = began + pause

    def advance(count: int) -> None:
        nonlocal done, pause, due
        done += count
        if (now := time.monotonic()) < due:
            return
        pause = min(2 * pause, LONGEST_PAUSE)
        due, seconds = now + pause, now - began
        left = seconds / (done - start) * (total - done) if total else seconds
        clock = f"{timedelta(seconds=round(left))} {'left' if total else 'so far'}"
        so_far = f"{description} {done}" + (f"/{total}" if total else "")
        parts = so_far, display.status, clock
        print(*filter(None, parts), sep="  ", file=sys.stderr, flush=True)

    return advance
