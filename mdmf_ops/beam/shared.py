"""`SharedDetector`: one network for all processes of a machine, where each copy would take a GPU's memory again.

The first process that asks loads it; the others send it their tiles through Beam's `MultiProcessShared`, a socket of
this machine. Who may use it can run code here, for what comes is unpickled: Beam's key, the same for everybody, gives
way to one that this user's processes alone can read. Decoding, which is most of the work that is left, stays in each
process. RunInference can share a model by itself, but only as a whole: then one process would decode for all, and a
stream could not exchange its detector.
"""

import hashlib
import os
import secrets
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from apache_beam.utils import multi_process_shared
from apache_beam.utils.multi_process_shared import MultiProcessShared

from mdmf_ops import __version__
from mdmf_ops.detector import Detector, Scorer
from mdmf_ops.detector.scorer import Terms
from mdmf_ops.images.decode import Limits

_THREADS = 2
"""Of each process: one image is decoded while another one waits for the network."""

_GONE = (ConnectionError, EOFError)
"""What a call gives once the process with the network has ended."""


class _Network:
    """What is called across processes: methods alone can be."""

    def __init__(self, load: Callable[[], Detector]):
        self._detector = load()

    def terms(self) -> Terms:
        return self._detector.terms

    def evidence(self, tiles: np.ndarray) -> np.ndarray:
        return self._detector.evidence(tiles)


class SharedDetector(Scorer):
    """Scores with the network of whichever process of this machine loaded it first.

    If that process ends, the next one to ask loads it again.

    Args:
        load: loads the detector, if this process is the first.
        of: what tells one network from another: those who say the same share one.
    """

    def __init__(self, load: Callable[[], Detector], of: Sequence[str], *, alpha: float, limits: Limits | None = None):
        self._load = load
        self._tag = hashlib.blake2b("\n".join((__version__, *of)).encode(), digest_size=12).hexdigest()
        self._replacing = threading.Lock()
        self._network = self._acquire()
        super().__init__(self._network.terms(), alpha, limits, _THREADS)

    def evidence(self, tiles: np.ndarray) -> np.ndarray:
        network = self._network
        try:
            return network.evidence(tiles)
        except _GONE:
            return self._replace(network).evidence(tiles)

    def _replace(self, gone: _Network) -> _Network:
        with self._replacing:
            if self._network is gone:  # else another thread was here before
                self._network = self._acquire()
            return self._network

    def _acquire(self) -> _Network:
        multi_process_shared.AUTH_KEY = private_key()
        shared = MultiProcessShared(partial(_Network, self._load), self._tag, path=private_folder())
        network = shared.acquire()
        # Once no process holds it, its memory is free for the next detector.
        weakref.finalize(self, _release, shared, network).atexit = False
        return network


def _release(shared: MultiProcessShared, network: _Network) -> None:
    with suppress(*_GONE):
        shared.release(network)


def private_folder() -> str:
    """Where processes of this user, and no other, find each other.

    Raises:
        PermissionError: another user has made that folder, or may write to it.
    """
    folder = Path(tempfile.gettempdir(), f"mdmf-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder}: expected a folder that its owner alone may use: remove it")
    return str(folder)


def private_key() -> bytes:
    """By what the processes of this user know each other: 32 random bytes, from a file in `private_folder`."""
    file = Path(private_folder(), "key")
    if not file.exists():
        with tempfile.NamedTemporaryFile(dir=file.parent) as made:  # nobody but its owner may read it
            made.write(secrets.token_bytes(32))
            made.flush()
            with suppress(FileExistsError):  # another process was faster: its key counts
                os.link(made.name, file)
    return file.read_bytes()
