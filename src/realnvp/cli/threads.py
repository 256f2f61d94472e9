"""Threads of torch on a CPU that others use, too."""

import os
import time
from typing import NamedTuple

import torch

MOST = 1024  # more than machines have; far more end torch with a segmentation fault
WATCHED = 0.15  # seconds; systems count a core's idle time in hundredths


class Cores(NamedTuple):
    """The cores that this process may use."""

    usable: int
    busy: int
    """How many cores the other processes keep busy, in effect."""


def settle_threads(chosen: int | None, device: torch.device) -> str:
    """Give torch the chosen threads, else as many as there are free cores.

    Returns what there is to tell of it, or ''. ValueError if --threads is out of range.

    torch's threads wait for each other by spinning, so one that shares its core with another
    process holds up all of them: beside one busy process a training is ten times slower with
    two threads on two cores than with one (docs/performance.md). OMP_NUM_THREADS and the
    launcher of several processes count as choices.
    """
    if chosen is not None:
        if chosen < 1:
            raise ValueError(f"--threads: must be at least 1, got {chosen}")
        if chosen > MOST:
            raise ValueError(f"--threads: must be at most {MOST}, got {chosen}")
        torch.set_num_threads(chosen)
        return ""
    decided = "OMP_NUM_THREADS" in os.environ or int(os.environ.get("WORLD_SIZE", 1)) > 1
    threads = torch.get_num_threads()
    if decided or threads == 1 or device.type != "cpu" or (cores := watched_cores()) is None:
        return ""
    free = max(1, cores.usable - cores.busy)
    if threads <= free:
        return ""
    torch.set_num_threads(free)
    return (
        f"{cores.busy} of {cores.usable} cores {'is' if cores.busy == 1 else 'are'} busy: "
        f"using {free} thread{'s' * (free > 1)} (--threads N to choose)"
    )


def watched_cores() -> Cores | None:
    """Watch for a moment which cores other processes use.

    Cores that this process and its children use count as free. None without psutil.
    """
    try:
        import psutil
    except ModuleNotFoundError:  # it comes with the extra realnvp[train]
        return None
    me = psutil.Process()
    mine = me.cpu_affinity() if hasattr(me, "cpu_affinity") else range(psutil.cpu_count() or 1)

    def unused() -> float:
        """Seconds in which these cores were idle, or worked for this process or its children."""
        cores = psutil.cpu_times(percpu=True)
        idle = sum(cores[i].idle + getattr(cores[i], "iowait", 0.0) for i in mine)
        own = 0.0
        for process in (me, *me.children(recursive=True)):
            try:
                times = process.cpu_times()
                own += times.user + times.system
            except psutil.Error:  # it has just ended
                continue
        return float(idle + own)

    began, before = time.monotonic(), unused()
    time.sleep(WATCHED)
    free = (unused() - before) / (time.monotonic() - began)
    return Cores(len(mine), min(max(round(len(mine) - free), 0), len(mine)))
