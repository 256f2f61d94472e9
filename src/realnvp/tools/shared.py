"""Contexts that change what all threads see: on from the first that enters to the last that leaves.

If each thread put back what it found, the first to leave would take the context from the others.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock

_LOCK = Lock()
_OPEN: dict[Hashable, tuple[int, ExitStack]] = {}
"""How many are in a context, and how it is left."""


@contextmanager
def shared(key: Hashable, context: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """Context, with all others of this key, in threads or nested."""
    with _LOCK:
        users, left = _OPEN.get(key, (0, ExitStack()))
        if not users:
            left.enter_context(context())
        _OPEN[key] = users + 1, left
    try:
        yield
    finally:
        with _LOCK:
            users, left = _OPEN.pop(key)
            if users > 1:
                _OPEN[key] = users - 1, left
            else:
                left.close()
