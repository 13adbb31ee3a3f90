"""How many processes of work this machine has room for."""

import os
from contextlib import suppress
from pathlib import Path

_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Of a container: how long it may take CPUs for, and in what time, in µs."""


def usable_cores() -> int:
    """Cores that this process may use, at least 1: a container or `taskset` may allow fewer than there are."""
    # macOS does not say what is allowed.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or `max` for no limit
        taken_us, of_us = map(int, _LIMIT.read_text().split())
        cores = min(cores, -(-taken_us // of_us))
    return cores
