"""The processes that work for a training: one a core, and none that outlives it."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from mdmf_ops.cores import usable_cores


def workers(begin: Callable[..., None], *shared: Any) -> ProcessPoolExecutor:
    """A pool of a process for each usable core.

    Args:
        begin: called once in each process, before its first work.
        shared: what it is called with.
    """
    return ProcessPoolExecutor(usable_cores(), initializer=_begin, initargs=(begin, shared))


def _begin(begin: Callable[..., None], shared: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*shared)


def _end_with_parent() -> None:
    """A parent that is killed tells nobody: its workers would wait for it for ever, with features of gigabytes."""
    multiprocessing.parent_process().join()
    os._exit(1)
