"""A lock of threads."""

import os
from threading import RLock


class Lock:
    """Context: one thread at a time. A process that was forked meanwhile finds it open."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        # A generator that garbage collection ends may come back to a lock that its thread holds.
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
