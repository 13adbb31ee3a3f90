"""Workers of Beam's local runner as forks of this process, which has imported all that they need.

Beam starts each worker as a process of its own, which imports Beam and torch for seconds while the others do the same.
A fork has them at once, and shares the memory that they take.

A process may be forked while it has one thread and has not touched a GPU. So a nursery is forked off first: a process
that does nothing but fork workers. Beam runs the command that it would start a worker with; here that is a messenger,
which brings the worker's environment to the nursery and ends when the worker does.
"""

import contextlib
import gc
import json
import logging
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait

from apache_beam.runners.worker import sdk_worker_main
from apache_beam.transforms.environments import SubprocessSDKEnvironment

_MESSENGER = """
import json, os, socket, sys
nursery = socket.socket(socket.AF_UNIX)
nursery.connect("/proc/self/fd/%d/nursery" % os.open(sys.argv[1], os.O_RDONLY))
nursery.sendall(json.dumps(dict(os.environ)).encode() + b"\\n")
sys.exit(nursery.recv(1) != b"0")
"""

_END_S = 5.0


def can_fork() -> bool:
    """Whether this process may be forked: no thread of it would be missing in the child."""
    return sys.platform == "linux" and threading.active_count() == 1


@contextlib.contextmanager
def forked_workers(quiet: bool = False) -> Iterator[SubprocessSDKEnvironment]:
    """Forks workers until the block ends; enter it where `can_fork`, before the pipeline is built.

    Args:
        quiet: workers write nothing to standard error, where Beam prints a traceback of whatever fails in them.

    Yields:
        What the local runner is to start workers in, `FnApiRunner(default_environment=...)`.
    """
    with tempfile.TemporaryDirectory(prefix="mdmf-workers-") as folder:
        held, held_by_nursery = socket.socketpair()
        with held_by_nursery, socket.socket(socket.AF_UNIX) as listener:
            # Through the open folder: a socket's path may have 107 letters, and TMPDIR more.
            number = os.open(folder, os.O_RDONLY)
            listener.bind(f"/proc/self/fd/{number}/nursery")
            os.close(number)
            listener.listen()
            fork = multiprocessing.get_context("fork")
            nursery = fork.Process(target=_nurse, args=(listener, held_by_nursery, held, quiet))
            nursery.start()
        try:
            # Isolated: in the working folder, which may be a stranger's, a file could stand in for one of Python's.
            command = shlex.join([sys.executable, "-I", "-S", "-c", _MESSENGER, folder])
            yield SubprocessSDKEnvironment.from_command_string(command)
        finally:
            held.close()
            nursery.join(_END_S)
            nursery.kill()
            nursery.join()


def _nurse(listener: socket.socket, parent: socket.socket, held: socket.socket, quiet: bool) -> None:
    """Forks a worker for each messenger, until the parent is done or gone."""
    held.close()
    gc.freeze()  # what was imported is not searched for garbage, which would write to memory that is shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group; the parent says when workers end
    fork = multiprocessing.get_context("fork")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere if quiet else sys.stderr):
        while parent not in wait([listener, parent]):
            messenger, _ = listener.accept()
            with messenger:
                fork.Process(target=_work, args=(messenger, listener, parent)).start()
            multiprocessing.active_children()  # waits for those that have ended
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()


def _work(messenger: socket.socket, listener: socket.socket, parent: socket.socket) -> None:
    """Is a worker, in the environment that the messenger brings."""
    listener.close()
    parent.close()
    with messenger.makefile() as lines:
        os.environ.update(json.loads(lines.readline()))
    logging.getLogger().handlers.clear()  # of the parent; Beam adds one that sends records to it
    threading.Thread(target=_end_with, args=(messenger,), daemon=True).start()
    sdk_worker_main.main([])
    messenger.sendall(b"0")


def _end_with(messenger: socket.socket) -> None:
    """Beam kills what it started, where a run fails: that is the messenger."""
    messenger.recv(1)
    os._exit(1)
