"""Progress on stderr: a bar on a terminal, elsewhere a plain line every so often.

Loops name their progress with `track` or `track_slices`. Only the outermost of them is shown, and
only inside `show_progress`, which the commands enter and library code does not.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
FIRST_LINE = 5.0  # seconds; each pause is twice the one before
LONGEST_PAUSE = 300.0


class Report:
    """How far something has come. Call it whenever that changes."""

    def __init__(self, what: str, total: int, start: int = 0) -> None:
        self.what, self.total, self.start, self.done = what, total, start, start
        self.words, self.context = "", None  # type: str, float | None
        self.began = time.monotonic()
        self.changed: Callable[[], None] = lambda: None

    def __call__(
        self, done: int, words: str = "", total: int | None = None, left: float | None = None
    ) -> None:
        """Say how much is done.

        done: of the total, what was there before `start` included.
        words: beside the numbers.
        total: where it has become known.
        left: seconds to the end. None: as at the pace since the start.
        """
        self.done, self.words, self.context = done, words, left
        self.total = total or self.total
        self.changed()

    @property
    def time(self) -> str:
        """'3m 20s left', or '7s so far' where nothing is done yet."""
        past = time.monotonic() - self.began
        left = self.context
        if left is None and self.done > self.start and self.total:
            left = past / (self.done - self.start) * (self.total - self.done)
        return f"{duration(past)} so far" if left is None else f"{duration(left)} left"

    @property
    def line(self) -> str:
        """All of it: 'step 40/1500  3.812 bits/dim  3m 20s left'."""
        counted = f" {self.done}/{self.total}" if self.total else f" {self.done}" * bool(self.done)
        return "  ".join(part for part in (f"{self.what}{counted}", self.words, self.time) if part)


@contextmanager
def progress(what: str, total: int, *, start: int = 0, enabled: bool = True) -> Iterator[Report]:
    """Context: a function that takes what is done. It is shown while the context lasts.

    total: 0 where nobody knows it. Then it is shown how long it takes.
    start: how much was done before. The time left is estimated from there on.
    """
    report = Report(what, total, start)
    if not enabled:
        yield report
    elif sys.stderr.isatty():
        yield from _bar(report)
    else:
        yield from _lines(report)


def counted(report: Report) -> Callable[[int], None]:
    """A function that takes how many more steps are done, and reports their sum."""
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        report(done)

    return more


def chunks(count: int, size: int, report: Callable[[int], None] | None = None) -> Iterator[slice]:
    """slice(0, size), slice(size, 2 size), ..., up to count.

    report: told how many are done, whenever the caller asks for the next chunk.
    """
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield slice(start, stop)
        if report:
            report(stop)


def _bar(report: Report) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[time]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(
            report.what, total=report.total or None, completed=report.start, words="", time=""
        )
        report.changed = lambda: bar.update(
            task,
            total=report.total or None,
            completed=report.done,
            words=report.words,
            time=report.time,
        )
        yield report


def _lines(report: Report) -> Iterator[Report]:
    """A thread speaks, so that no step and no evaluation is too long for a line."""
    ended, said = Event(), list[str]()

    def say() -> None:
        said.append(report.line)
        print(said[-1], file=sys.stderr, flush=True)

    def speak() -> None:
        pause = FIRST_LINE
        while not ended.wait(pause):
            say()
            pause = min(2 * pause, LONGEST_PAUSE)

    speaker = Thread(target=speak, name="progress", daemon=True)
    speaker.start()
    try:
        yield report
    finally:
        ended.set()
        speaker.join()
    if said and report.done >= report.total and said[-1] != report.line:
        say()


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


class _Display:
    """The state of one `show_progress`: whether a loop is being shown, and the text beside it."""

    def __init__(self) -> None:
        self.busy, self.status = False, ""


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
    """The items, counted on stderr.

    total: the count at the end, `start` included; None: len(items), or unknown.
    start: the items done before these.
    """
    if total is None and isinstance(items, Sized):
        total = start + len(items)
    with _shown(description, total, start) as update:
        for done, item in enumerate(items, start + 1):
            yield item
            update(done)


def track_slices(count: int, size: int, description: str = "") -> Iterator[slice]:
    """slice(0, size), slice(size, 2 size), ... up to count; progress is counted in entries."""
    with _shown(description, count, 0) as update:
        for first in range(0, count, size):
            last = min(first + size, count)
            yield slice(first, last)
            update(last)


def set_status(text: str) -> None:
    """Show a text, as a loss, beside the progress that is shown."""
    if display := _display.get():
        display.status = text


@contextmanager
def _shown(description: str, total: int | None, start: int) -> Iterator[Callable[[int], None]]:
    """Context: a function that takes the count so far and shows it."""
    display = _display.get()
    if display is None or display.busy:
        yield lambda done: None
        return
    display.busy, display.status = True, ""
    shown = _rich_bar if sys.stderr.isatty() else _plain_lines
    try:
        with shown(description, total, start, display) as update:
            yield update
    finally:
        display.busy = False


@contextmanager
def _rich_bar(
    description: str, total: int | None, start: int, display: _Display
) -> Iterator[Callable[[int], None]]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[status]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, completed=start, status="")
        yield lambda done: bar.update(task, completed=done, status=display.status)


@contextmanager
def _plain_lines(
    description: str, total: int | None, start: int, display: _Display
) -> Iterator[Callable[[int], None]]:
    began = time.monotonic()
    pause, due = FIRST_LINE, began + FIRST_LINE

    def update(done: int) -> None:
        nonlocal pause, due
        now = time.monotonic()
        if now < due:
            return
        pause = min(2 * pause, LONGEST_PAUSE)
        due = now + pause
        elapsed = now - began
        time_text = f"{duration(elapsed)} so far"
        if total and done > start:
            time_text = f"{duration(elapsed / (done - start) * (total - done))} left"
        counts = f"{description} {done}/{total}" if total else f"{description} {done}"
        parts = (counts, display.status, time_text)
        print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)

    yield update
