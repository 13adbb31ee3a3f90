"""How many processes of work this machine has room for."""

import os


def usable_cores() -> int:
    """Cores that this process may run on, at least 1: a container or `taskset` may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
